"""Operators that only move data: they become views, and cancel or fade into their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.values import Static, Tensor, Value, shape_of


def _reshape(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    if not isinstance(args[0], Tensor):
        return None
    shape = shape_of(call)
    view = args[0].reshape(shape)
    return view or Tensor.of(graph.read(args[0])).reshape(shape)


def _permute(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    rank = len(args[0].shape)
    axes = call.attrs.axes
    order = tuple(range(rank))[::-1] if axes is None else tuple(int(a) % rank for a in axes)
    view = args[0].permute(order)
    return view or Tensor.of(graph.read(args[0])).permute(order)


def _broadcast(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    return args[0].widened(shape_of(call))


def _cast(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    if args[0].dtype == str(call.ty.dtype):
        return args[0]
    return _through_view(graph, args[0], lambda x: relax.op.astype(x, call.attrs.dtype))


def _dropout(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    return (args[0], args[0])


def _same(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    return args[0]


def _through_view(graph: Graph, value: Tensor, op: Callable[[relax.Expr], relax.Expr]) -> Tensor:
    return Tensor(graph.emit(op(value.var)), value.view, value.broadcast)


def _split(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """Equal parts of an axis; each is a view of a part of the base if that axis leads there."""
    parts = call.attrs.indices_or_sections
    axis = int(call.attrs.axis) % len(args[0].shape)
    length = args[0].shape[axis]
    if hasattr(parts, "__len__"):
        bounds = [0, *(int(p) for p in parts), length]
        sizes = {b - a for a, b in pairwise(bounds)}
        count = len(bounds) - 1 if len(sizes) == 1 else 0
    else:
        count = int(parts)
    if count == 0 or length % count:
        return None
    found = [part_of(graph, args[0], axis, i, count) for i in range(count)]
    return None if any(f is None for f in found) else tuple(found)


def part_of(graph: Graph, value: Tensor, axis: int, index: int, count: int) -> Tensor | None:
    """Part ``index`` of ``count`` equal parts of an axis, taken from the base by R.split.

    None unless that axis starts where an axis of the base starts.
    """
    shape = value.shape
    if value.broadcast is not None or count <= 1 or shape[axis] % count:
        return None
    view = value.view.reshape((*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :]))
    if view is None or len(view.groups()[axis]) != 1:
        return None
    atom = view.groups()[axis][0]
    where = [i for i, group in enumerate(view.base_groups()) if group[:1] == (atom,)]
    if not where:
        return None
    part = graph.part(value.var, where[0], index, count)
    base = Tensor.of(part)
    atoms = view.atoms[:atom] + view.atoms[atom + 1 :]
    order = tuple(i - (i > atom) for i in view.order if i != atom)
    shape = (*shape[:axis], shape[axis] // count, *shape[axis + 1 :])
    return Tensor(part, type(view)(base.view.base, atoms, order, shape))


def _full_like(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """Only the shape of the operand matters, and that is known."""
    fill = {"relax.zeros_like": 0, "relax.ones_like": 1}.get(call.op.name)
    if fill is None and not isinstance(args[1], Static):
        return None
    value = args[1].array if fill is None else np.asarray(fill)
    return Static(np.broadcast_to(value.astype(str(call.ty.dtype)), shape_of(call)))


def _unchanged_if_static(rule: Callable[..., Value | None]) -> Callable[..., Value | None]:
    def checked(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
        return None if isinstance(args[0], Static) else rule(graph, call, args)

    return checked


RULES: Mapping[str, Callable[..., Value | None]] = {
    name: _unchanged_if_static(rule)
    for name, rule in {
        "relax.reshape": _reshape,
        "relax.expand_dims": _reshape,
        "relax.squeeze": _reshape,
        "relax.flatten": _reshape,
        "relax.permute_dims": _permute,
        "relax.broadcast_to": _broadcast,
        "relax.astype": _cast,
        "relax.nn.dropout": _dropout,
        "relax.stop_lift_params": _same,
        "relax.split": _split,
        "relax.full_like": _full_like,
        "relax.zeros_like": _full_like,
        "relax.ones_like": _full_like,
    }.items()
}
