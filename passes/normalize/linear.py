"""Linear layers: a product with a known matrix becomes matmul(x, permute_dims(W)), W [N, K]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from passes.normalize.attention import attention_of
from passes.normalize.graph import Graph
from passes.normalize.values import Array, Static, Tensor, Value, shape_of
from passes.normalize.weight import Weight, moved, weight_of, written


def _matmul(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    x, weight = args
    if isinstance(x, Tensor) and len(x.shape) >= 2:
        matrix = _matrix(weight)
        known = None if matrix is None else weight_of(graph, matrix, outputs=1)
        if known is not None:
            return linear(graph, x, known, shape_of(call))
    if isinstance(x, Tensor) and isinstance(weight, Tensor):
        fused = attention_of(graph, call, x, weight)
        if fused is not None:
            return fused
        result = graph.tensor(relax.op.matmul(graph.read(x), graph.read(weight)))
        graph.note_matmul(result.var, x, weight)
        return result
    return None


def linear(graph: Graph, x: Tensor, weight: Weight, shape: tuple[int, ...]) -> Tensor:
    """x W^T on the base of ``x``: leading axes stay as they lie there, whatever the view does.

    Args:
        graph: where it is written.
        x: the input, [..., K].
        weight: [N, K].
        shape: of the result, [..., N].
    """
    x, weight = _as_it_lies(x, weight)
    base = None if x.broadcast is not None else x.view.trailing()
    if base is None:
        x = Tensor.of(graph.read(x))
        base = x.view
    var = written(graph, weight, "linear")
    transposed = graph.emit(relax.op.permute_dims(var, [1, 0]))
    y = graph.tensor(relax.op.matmul(graph.read(Tensor(x.var, base)), transposed))
    return Tensor(y.var, x.view.with_last(y.view.base, shape[-1]))


def _as_it_lies(x: Tensor, weight: Weight) -> tuple[Tensor, Weight]:
    """Columns of the weight moved where that saves moving ``x``, such as a flattened image."""
    found = None if x.broadcast is not None else x.view.sorted_last()
    if found is None:
        return x, weight
    view, (split, order) = found

    def change(array: Array) -> Array:
        parts = array.reshape(len(array), *split).transpose(0, *(i + 1 for i in order))
        return parts.reshape(len(array), -1)

    return Tensor(x.var, view), moved(weight, change)


def _matrix(weight: Value) -> Value | None:
    """The matrix [K, N] in what only repeats it along leading axes."""
    if not isinstance(weight, Static):
        return weight if isinstance(weight, Tensor) and len(weight.shape) == 2 else None
    array = weight.array
    while array.ndim > 2:
        if array.strides[0] != 0 and array.shape[0] != 1:
            return None
        array = array[0]
    return Static(array, weight.name) if array.ndim == 2 else None


RULES: Mapping[str, Callable[..., Value | None]] = {"relax.matmul": _matmul}
