"""Look-ups: embeddings, parts of a combined tensor, and indices that pick every element."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.shapes import part_of
from passes.normalize.values import Array, Static, Tensor, Value, shape_of
from passes.normalize.views import View


def _take(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    data, index = args
    axis = call.attrs.axis
    if isinstance(data, Static) and isinstance(index, Tensor):
        return _embedding(graph, data, index) if axis is not None and int(axis) == 0 else None
    if axis is None or not isinstance(index, Static):
        return None
    picks = index.array.reshape(-1)
    if isinstance(data, Tensor) and np.array_equal(picks, np.arange(data.shape[int(axis)])):
        return data.reshape(shape_of(call))  # every position in its order
    if picks.size != 1:
        return None
    return _select(graph, data, int(axis), int(picks[0]), shape_of(call))


def _embedding(graph: Graph, table: Static, ids: Tensor) -> Value | None:
    """R.take(W, ids, axis=0) on the ids as the user gives them.

    Importers cast the ids and add the table's length to negative ones. Token ids are never
    negative, and every integer type indexes alike, so both are left out. An id beyond the table
    reads its last row, never other memory.
    """
    if len(table.shape) != 2 or table.array.dtype.kind != "f" or ids.broadcast is not None:
        return None
    var = _plain_ids(graph, ids.var)
    rows = graph.tensor(relax.op.take(graph.read(table), var, axis=0, mode="clip"))
    length = table.shape[1]
    view = ids.view
    extra = () if length == 1 else (length,)
    order = (*view.order, *range(len(view.atoms), len(view.atoms) + len(extra)))
    shape = (*view.shape, length)
    return Tensor(rows.var, View(rows.view.base, view.atoms + extra, order, shape))


def _plain_ids(graph: Graph, ids: relax.Expr) -> relax.Expr:
    """The ids before ``where(ids < 0, ids + n, ids)`` and before casts between integers."""
    wrapped = graph.producer(ids, "where")
    if wrapped is not None:
        condition = graph.producer(wrapped.args[0], "less")
        plain = wrapped.args[2]
        if condition is not None and _is_sign_test(graph, condition, plain):
            return _plain_ids(graph, plain)
    cast = graph.producer(ids, "astype")
    if cast is not None and str(cast.args[0].ty.dtype).startswith("int"):
        return _plain_ids(graph, cast.args[0])
    return ids


def _is_sign_test(graph: Graph, less: relax.Call, ids: relax.Expr) -> bool:
    return bool(less.args[0].same_as(ids)) and graph.scalar(less.args[1]) == 0


def _select(
    graph: Graph, data: Tensor, axis: int, index: int, shape: tuple[int, ...]
) -> Value | None:
    """One position of an axis: a part of the base if the axis leads there."""
    count = data.shape[axis]
    index %= count
    part = data if count == 1 else part_of(graph, data, axis, index, count)
    return None if part is None else part.reshape(shape)


def _slice(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """A slice of one axis that is one of several equal parts of it, or all of it."""
    data = args[0]
    if not isinstance(data, Tensor) or data.shape == shape_of(call):
        whole = len(args) == 4 or all(int(v) == 1 for v in args[4])
        return data if isinstance(data, Tensor) and whole else None
    axes, begin, _ = ([int(v) for v in arg] for arg in args[1:4])
    length = shape_of(call)[axes[0]]
    full = data.shape[axes[0]]
    start = begin[0] + full if begin[0] < 0 else begin[0]
    one_step = len(args) == 4 or int(args[4][0]) == 1
    if len(axes) != 1 or not one_step or length == 0 or full % length or start % length:
        return None
    return part_of(graph, data, axes[0], start // length, full // length)


def _index_tensor(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    data, indices = args
    if not isinstance(data, Tensor) or not all(isinstance(i, Static) for i in indices):
        return None
    return _every_element(data, [i.array for i in indices], shape_of(call))


def _gather_nd(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    data, index = args
    if not isinstance(data, Tensor) or not isinstance(index, Static):
        return None
    if int(call.attrs.batch_dims):
        return None
    return _every_element(data, list(np.moveaxis(index.array, -1, 0)), shape_of(call))


def _every_element(data: Tensor, indices: list[Array], shape: tuple[int, ...]) -> Value | None:
    """A look-up that picks every element in its order is a reshape; None for any other."""
    if len(indices) != len(data.shape):
        return None
    wrapped = [i % n for i, n in zip(indices, data.shape, strict=True)]
    flat = np.ravel_multi_index(tuple(np.broadcast_arrays(*wrapped)), data.shape).reshape(-1)
    return data.reshape(shape) if np.array_equal(flat, np.arange(np.prod(data.shape))) else None


RULES: Mapping[str, Callable[..., Value | None]] = {
    "relax.take": _take,
    "relax.strided_slice": _slice,
    "relax.index_tensor": _index_tensor,
    "relax.gather_nd": _gather_nd,
}
