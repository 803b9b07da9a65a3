"""Quantised models (QDQ): scales and zero points stay where they are, weights stay codes.

Activations: ``R.dequantize(R.quantize(x, scale, zero), scale, zero)`` with numbers for scale and zero
point, on x as it lies. Weights: ``R.dequantize(codes, scale, zero, axis=0)`` in place of W, codes an
int8 or uint8 weight [N, ...], scale a weight [N] or a number. Biases become float32: their scale is
the product of the two others, so nothing is lost that an integer kernel needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.values import Static, Tensor, Value
from passes.normalize.weight import CODES


def _quantize(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """Of one scale, on the base of a view; what was quantised like that before is those codes."""
    x, scale, zero = args
    if not isinstance(x, Tensor) or not _one_scale(scale, zero):
        return None
    before = graph.producer(x.var, "dequantize")
    if before is not None and str(before.args[0].ty.dtype) == call.attrs.out_dtype:
        numbers = [graph.scalar(a) for a in before.args[1:]]
        if numbers == [scale.scalar, zero.scalar]:
            return Tensor(before.args[0], x.view, x.broadcast)
    return _on_base(graph, x, scale, zero, relax.op.quantize, str(call.attrs.out_dtype))


def _dequantize(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """Of one scale, on the base of a view; known codes are not computed, but stay codes."""
    x, scale, zero = args
    if isinstance(x, Static) and isinstance(scale, Static) and isinstance(zero, Static):
        # the layer that reads them gets codes of its own under their name
        codes = graph.weight(Static(x.array, (x.name or "weight") + CODES))
        axis = int(call.attrs.axis) % len(x.shape)
        return graph.tensor(_of_codes(graph, codes, scale, zero, axis))
    if not isinstance(x, Tensor) or not _one_scale(scale, zero):
        return None
    return _on_base(graph, x, scale, zero, relax.op.dequantize, str(call.attrs.out_dtype))


def _one_scale(scale: Value, zero: Value) -> bool:
    return all(isinstance(v, Static) and v.array.size == 1 for v in (scale, zero))


def _on_base(
    graph: Graph,
    x: Tensor,
    scale: Static,
    zero: Static,
    operator: Callable[..., relax.Expr],
    dtype: str,
) -> Tensor:
    numbers = [graph.read(_short(v)) for v in (scale, zero)]
    return Tensor(graph.emit(operator(x.var, *numbers, -1, dtype)), x.view, x.broadcast)


def _of_codes(graph: Graph, codes: relax.Var, scale: Static, zero: Static, axis: int) -> relax.Expr:
    """scale (codes - zero), the one or the other a number or one number for each index of ``axis``."""
    operands = [graph.read(_short(v)) for v in (scale, zero)]
    return relax.op.dequantize(codes, *operands, axis, "float32")


def _short(value: Static) -> Static:
    """One number where all are the same and no scale is lost by it: zero points, mostly."""
    if value.array.ndim == 0:
        return value
    first = value.array.reshape(-1)[:1]
    alike = value.array.dtype.kind != "f" or value.array.size == 1
    return (
        Static(first.reshape(()), value.name) if alike and (value.array == first).all() else value
    )


def stays_codes(call: relax.Call, args: list[Value]) -> bool:
    """Whether ``call`` gives a weight from its codes, which is not to be computed."""
    codes = args[0] if args else None
    is_weight = isinstance(codes, Static) and codes.array.ndim >= 2
    return call.op.name == "relax.dequantize" and is_weight


RULES: Mapping[str, Callable[..., Value | None]] = {
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
}
