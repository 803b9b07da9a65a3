"""Operator replacement: layer normalisation by a fixed affine map of each channel.

Layer norm needs the mean and the variance of each row: two reductions, and a kernel of its own. MobileBERT
(Sun et al. 2020) leaves them out (NoNorm, ``gamma x + beta``) and trains; here calibration gives the affine
map of each channel that is closest to the norm in the least-squares sense, which covers statistics frozen at
their means. It is elementwise, so fusion makes it a part of the product before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.errors import PassError
from passes.model import Model
from passes.patterns import Flow
from passes.report import Change, Refusal, Report
from passes.rewrite import Rewriting, rewrite

if TYPE_CHECKING:
    from passes.sites import FFN, Attention, Norm
    from targets.target import Target

NAME = "norm"

Block = TypeVar("Block", "Attention", "FFN")

_NORMLESS = "no layer norm in its section alone reads its sum with the residual"

SCALE, SHIFT = ".frozen_scale", ".frozen_shift"
"""Suffixes, on the norm's gain, of the weights that take its place."""


@dataclass(frozen=True)
class NormConfig:
    """What is offered.

    Attributes:
        enabled: whether norms may be frozen at all.
    """

    enabled: bool = True


@dataclass(frozen=True)
class Frozen:
    """``x * scale + shift``, channel by channel.

    Attributes:
        error: squared deviation from the norm over the variance of its results, on calibration data.
    """

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    error: float = 0.0


def fitted(
    rows: Iterable[NDArray[np.floating]],
    gain: NDArray[np.floating],
    shift: NDArray[np.floating],
    epsilon: float,
) -> Frozen:
    """The affine map of each channel that is closest to the norm of these rows.

    Args:
        rows: inputs of the norm, arrays [rows, channels].
        gain, shift: of the norm, [channels].
        epsilon: added to its variance.
    """
    x = np.concatenate([np.asarray(r, np.float64) for r in rows])
    y = normalised(x, np.asarray(gain, np.float64), np.asarray(shift, np.float64), epsilon)
    mean_x, mean_y = x.mean(0), y.mean(0)
    dx, dy = x - mean_x, y - mean_y
    spread = np.square(dx).mean(0)
    scale = np.divide((dx * dy).mean(0), spread, out=np.zeros_like(spread), where=spread > 0)
    left = np.square(dy - scale * dx).sum()
    power = np.square(dy).sum()
    moved = mean_y - scale * mean_x
    return Frozen(
        tuple(scale.tolist()), tuple(moved.tolist()), float(left / power) if power else 0.0
    )


def normalised(
    x: NDArray[np.float64],
    gain: NDArray[np.float64],
    shift: NDArray[np.float64],
    epsilon: float,
) -> NDArray[np.float64]:
    """Layer normalisation over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + epsilon)
    return centred / deviation * gain + shift


def freeze_norm(model: Model, norm: Norm, frozen: Frozen) -> tuple[Model, Report]:
    """Put a fixed affine map in the place of a layer norm.

    Raises:
        PassError: the norm is not in the graph, or has another number of channels.
    """
    found = norm_var(Flow(model), norm)
    channels = {len(frozen.scale), len(frozen.shift)}
    if found is None or channels != {norm.channels}:
        raise PassError(
            f"{norm.name} cannot be frozen",
            got="no such layer norm" if found is None else f"{channels} channels",
            allowed=f"a layer norm of {norm.channels} channels with the gain {norm.weight}",
        )
    made = {SCALE: frozen.scale, SHIFT: frozen.shift}
    new = {norm.weight + suffix: np.array(v, np.float32) for suffix, v in made.items()}

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if not var.same_as(found):
            return None
        scale, shift = (graph.weight(norm.weight + suffix) for suffix in (SCALE, SHIFT))
        scaled = graph.emit(relax.op.multiply(graph.new(value.args[0]), scale))
        return relax.op.add(scaled, shift)

    written = rewrite(model, {**model.weights, **new}, edit, name=NAME)
    detail = f"affine, {frozen.error:.1%} of the variance lost"
    return written, Report(NAME, (Change(norm.name, NAME, detail),))


def norm_var(flow: Flow, norm: Norm) -> relax.Var | None:
    """The variable that a norm makes."""
    for var in flow.order:
        call = flow.call(var, "relax.nn.layer_norm")
        if call is not None and getattr(call.args[1], "name", "") == norm.weight:
            return var
    return None


def with_norm_within(flow: Flow, site: Block, end: relax.Var) -> Block:
    """The site, without the norm behind it if that comes after the end of its section.

    What lies outside a section is not decided in it: the norm behind the last layer of a pre-norm encoder.
    """
    var = None if site.norm is None else norm_var(flow, site.norm)
    if var is None or flow.order[var] <= flow.order[end]:
        return site
    return replace(site, norm=None)


def choices(
    site: Attention | FFN, target: Target, config: NormConfig | None = None
) -> tuple[list[dict[str, int]], list[Refusal]]:
    """The one setting ``{}`` where the norm behind a site may be frozen, and what is refused."""
    config = config or NormConfig()
    if not config.enabled:
        return [], [Refusal(site.name, NAME, "freezing norms is switched off")]
    if site.norm is None:
        return [], [Refusal(site.name, NAME, _NORMLESS)]
    return [{}], []
