"""Operators along one axis of a tensor whose axes are permuted: on the tensor as it lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.image import turned
from passes.normalize.values import Static, Tensor, Value


def _concat(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """All parts in the order of axes of the first that is permuted."""
    parts = [Tensor.of(graph.read(p)) if isinstance(p, Static) else p for p in args[0]]
    order = next((o for p in parts if (o := _order(p)) is not None), None)
    if order is None:
        return None
    inverse = tuple(order.index(axis) for axis in range(len(order)))
    exprs = [graph.read(turned(graph, p, inverse)) for p in parts]
    axis = order[int(call.attrs.axis) % len(order)]
    last = -1 if axis == len(order) - 1 else axis
    return turned(graph, graph.tensor(relax.op.concat(exprs, last)), order)


def _pad(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    x, attrs = args[0], call.attrs
    order = _order(x)
    if order is None:
        return None
    widths = [0] * (2 * len(order))
    for axis, below in enumerate(order):
        widths[2 * below : 2 * below + 2] = [int(w) for w in attrs.pad_width[2 * axis :][:2]]
    y = relax.op.nn.pad(x.var, widths, attrs.pad_mode, float(attrs.pad_value))
    return turned(graph, graph.tensor(y), order)


def _softmax(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    order = _order(args[0])
    if order is None:
        return None
    axis = order[int(call.attrs.axis) % len(order)]
    softmax = (
        relax.op.nn.softmax if call.op.name.endswith("nn.softmax") else relax.op.nn.log_softmax
    )
    last = -1 if axis == len(order) - 1 else axis
    return turned(graph, graph.tensor(softmax(args[0].var, last)), order)


def _order(x: Value) -> tuple[int, ...] | None:
    """Which axis of its base each axis is, if the axes are permuted and nothing else."""
    if not isinstance(x, Tensor) or x.broadcast is not None:
        return None
    return x.view.axis_order() if x.view.turned else None


RULES: Mapping[str, Callable[..., Value | None]] = {
    "relax.concat": _concat,
    "relax.nn.pad": _pad,
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _softmax,
}
