"""Reductions on the base of a view: the mean of an image is taken as the image lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.values import Tensor, Value

OPERATORS = {
    "mean": relax.op.mean,
    "sum": relax.op.sum,
    "max": relax.op.max,
    "min": relax.op.min,
}
"""Of a single number, each of them is that number."""


def _reduce(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    x, attrs = args[0], call.attrs
    if not isinstance(x, Tensor) or attrs.axis is None or x.broadcast is not None:
        return None
    axes = tuple(int(a) % len(x.shape) for a in attrs.axis)
    if axes == (len(x.shape) - 1,):
        return None  # layer normalisation is recognised by the means over the last axis
    name = call.op.name.removeprefix("relax.")
    return reduced(graph, name, x, axes, keepdims=bool(attrs.keepdims))


def reduced(
    graph: Graph, name: str, x: Tensor, axes: tuple[int, ...], keepdims: bool
) -> Tensor | None:
    """``x`` reduced over axes, on its base if those axes lie there; None if they do not.

    Args:
        graph: where it is written.
        name: of the operator, one of OPERATORS.
        x: without a broadcast.
        axes: not negative.
        keepdims: whether they stay with length 1.
    """
    found = x.view.reduced(axes, keepdims)
    if found is None:
        return None
    below, view = found
    var = x.var
    if below:
        var = graph.emit(OPERATORS[name](x.var, list(below), keepdims=False))
    elif view.base != x.view.base:
        return None
    return Tensor(var, view)


RULES: Mapping[str, Callable[..., Value | None]] = {f"relax.{name}": _reduce for name in OPERATORS}
