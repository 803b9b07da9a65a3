"""ReLU, ReLU6 and limits in all their spellings: R.nn.relu, or R.clip with both limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from passes.normalize.elementwise import apply
from passes.normalize.graph import Graph
from passes.normalize.values import Static, Tensor, Value, shape_of

Limits = tuple[float, float]


def limited(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """A call of clip, relu, maximum or minimum; limits by numbers join those that are there."""
    x, limits = _split(call, args)
    if limits is None or not isinstance(x, Tensor) or not x.dtype.startswith("float"):
        return apply(graph, call, args)
    below = graph.producer(x.var, "clip", "nn.relu")
    if below is not None and shape_of(below.args[0]) == shape_of(x.var):
        inner = _limits(below)
        limits = (_clipped(inner[0], limits), _clipped(inner[1], limits))
        x = Tensor(below.args[0], x.view, x.broadcast)
    if limits == (-math.inf, math.inf):
        return x
    if limits == (0, math.inf):
        return Tensor(graph.emit(relax.op.nn.relu(x.var)), x.view, x.broadcast)
    return Tensor(graph.emit(relax.op.clip(x.var, *limits)), x.view, x.broadcast)


def _split(call: relax.Call, args: list[Any]) -> tuple[Value, Limits | None]:
    """What is limited, and by which numbers if they are known."""
    name = call.op.name
    if name in ("relax.clip", "relax.nn.relu"):
        return args[0], _limits(call)
    x, bound = args if isinstance(args[1], Static) else args[::-1]
    number = bound.scalar if isinstance(bound, Static) else None
    if number is None or shape_of(call) != x.shape:
        return x, None
    return x, (number, math.inf) if name == "relax.maximum" else (-math.inf, number)


def _limits(call: relax.Call) -> Limits:
    if call.op.name == "relax.nn.relu":
        return 0.0, math.inf
    low, high = (float(a.value) for a in call.args[1:])
    return low, high


def _clipped(number: float, limits: Limits) -> float:
    return max(limits[0], min(number, limits[1]))


RULES: Mapping[str, Callable[..., Value | None]] = {
    f"relax.{name}": limited for name in ("clip", "nn.relu", "maximum", "minimum")
}
