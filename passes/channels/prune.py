"""Structured channel pruning: fewer channels in coupled groups, which stay dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.channels.graph import Axis
from passes.channels.groups import NAME, ChannelGroup, Coupling, couple
from passes.channels.reshapes import VIEWS
from passes.errors import PassError
from passes.ffn import kept_numbers
from passes.model import Model
from passes.patterns import shape_of
from passes.report import Change, Refusal, Report
from passes.rewrite import Rewriting, Weights, rewrite

if TYPE_CHECKING:
    from targets.target import Target

Keep = Mapping[ChannelGroup, Sequence[int] | NDArray[np.intp]]
"""The units that each group keeps; groups that are not named keep all."""


@dataclass(frozen=True)
class ChannelsConfig:
    """What is offered.

    Attributes:
        shares: shares of the units kept; widths are rounded to steps of the target.
        min_steps: steps of units that are always left.
    """

    shares: tuple[float, ...] = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
    min_steps: int = 1


def prune_channels(
    model: Model, keep: Keep, weights: Weights | None = None
) -> tuple[Model, Report]:
    """Keep only some units of coupled groups of channels.

    Exact relative to the dense graph in which the columns of the groups' consumers that belong to
    removed units are zero, so that nothing of a removed channel reaches anything, be it constant
    (bias and activation make it so) or not. Kept channels stay in their order.

    Args:
        model: a canonical model.
        keep: groups of this model, or of an earlier form of it, with distinct numbers of units.
        weights: effective dense weights to use instead of the model's (see ``solve_channels``).

    Raises:
        PassError: a group that the model does not have, or has with another size; no, repeated or
            unknown units.
    """
    model = model.with_weights(weights or {})
    coupling = couple(model)
    kept = _kept_positions(coupling, keep)
    graph = coupling.graph
    changed = dict(model.weights)
    for tensor, axis in kept:
        name = graph.weight(tensor)
        if name is not None:
            index = np.flatnonzero(kept[tensor, axis])
            changed[name] = np.ascontiguousarray(changed[name].take(index, axis=axis))
    pruned = rewrite(model, changed, _ShapeEdit(kept), name=NAME)
    changes = (
        Change(group.name, NAME, f"{len(units)} of {group.size} channels")
        for group, units in keep.items()
    )
    return pruned, Report(NAME, tuple(changes))


def choices(
    group: ChannelGroup, target: Target, config: ChannelsConfig | None = None
) -> tuple[list[dict[str, int]], list[Refusal]]:
    """Settings ``{"channels": units}`` offered for a group, widest first, and what is refused."""
    config = config or ChannelsConfig()
    step, full = group.step(target), group.size
    offers: list[dict[str, int]] = []
    refusals: list[Refusal] = []
    for share in sorted(config.shares, reverse=True):
        width = max(config.min_steps, round(share * full / step)) * step
        if width >= full:
            reason = f"{share:g} of {full} units, rounded to steps of {step}, removes none"
            refusals.append(Refusal(group.name, f"{NAME} {share:g}", reason))
        elif {"channels": width} not in offers:
            offers.append({"channels": width})
    return offers, refusals


def _kept_positions(coupling: Coupling, keep: Keep) -> dict[Axis, NDArray[np.bool_]]:
    """A mask of what stays for every axis of which something goes."""
    of = {group.name: group for group in coupling.groups}
    gone = np.zeros(len(coupling.units), dtype=bool)  # by number of the unit
    for group, units in keep.items():
        size = of[group.name].size if group.name in of else None
        if size != group.size:
            raise PassError(
                f"the model has no group {group.name} of {group.size} channels",
                got="no such group" if size is None else f"one of {size}",
                allowed=", ".join(of),
                next="find the groups again after a pass that changes them",
            )
        index = kept_numbers(units, group.size, group.name, "channels")
        gone[np.delete(coupling.members[group.name], index)] = True
    stays = ~gone[coupling.units]
    masks = {axis: stays[coupling.graph.positions(axis)] for axis in coupling.graph.axes}
    return {axis: mask for axis, mask in masks.items() if not mask.all()}


class _ShapeEdit:
    """Writes the operators anew that name sizes: shapes, parts, and groups of convolutions."""

    def __init__(self, kept: Mapping[Axis, NDArray[np.bool_]]) -> None:
        self._kept = kept

    def __call__(self, graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if not isinstance(value, relax.Call):
            return None
        op = str(getattr(value.op, "name", ""))
        if op in VIEWS and self._narrowed(var, value.args[0]):
            return relax.op.reshape(graph.new(value.args[0]), self._shape(var))
        if op == "relax.broadcast_to" and self._narrowed(var):
            return relax.op.broadcast_to(graph.new(value.args[0]), self._shape(var))
        if op == "relax.split" and self._narrowed(value.args[0]):
            return self._split(graph, value)
        if op == "relax.nn.conv2d" and int(value.attrs.groups) > 1 and self._narrowed(var):
            return self._conv2d(graph, var, value)
        return None

    def _narrowed(self, *tensors: relax.Expr) -> bool:
        return any((t, axis) in self._kept for t in tensors for axis in range(len(shape_of(t))))

    def _shape(self, tensor: relax.Expr) -> list[int]:
        """The shape that is left of a tensor."""
        masks = (self._kept.get((tensor, axis)) for axis in range(len(shape_of(tensor))))
        return [
            size if mask is None else int(mask.sum())
            for size, mask in zip(shape_of(tensor), masks, strict=True)
        ]

    def _split(self, graph: Rewriting, call: relax.Call) -> relax.Expr | None:
        whole = call.args[0]
        axis = int(call.attrs.axis) % len(shape_of(whole))
        mask = self._kept.get((whole, axis))
        if mask is None:
            return None
        sizes = [int(part.shape.values[axis]) for part in call.ty.fields]
        before = np.concatenate([[0], np.cumsum(mask)])
        ends = [int(before[end]) for end in np.cumsum(sizes)[:-1]]
        return relax.op.split(graph.new(whole), ends, axis=axis)

    def _conv2d(self, graph: Rewriting, var: relax.Var, call: relax.Call) -> relax.Expr:
        attrs, w = call.attrs, call.args[1]
        rows = shape_of(w)[0] // int(attrs.groups)
        left = self._shape(w)[0]
        return relax.op.nn.conv2d(
            *(graph.new(a) for a in call.args),
            strides=attrs.strides,
            padding=attrs.padding,
            dilation=attrs.dilation,
            groups=left // rows,
            data_layout=attrs.data_layout,
            kernel_layout=attrs.kernel_layout,
            out_layout=attrs.out_layout,
            out_dtype=attrs.out_dtype or None,
        )
