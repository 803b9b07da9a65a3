"""Elementwise operators: computed on the base of a view, before a broadcast, if that is equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.values import Array, Static, Tensor, Value, shape_of
from passes.normalize.views import Shape, View

UNARY = (
    "abs",
    "cos",
    "erf",
    "exp",
    "isnan",
    "logical_not",
    "bitwise_not",
    "negative",
    "rsqrt",
    "round",
    "sigmoid",
    "sign",
    "sin",
    "sqrt",
    "square",
    "tanh",
    "nn.gelu",
    "nn.gelu_tanh",
    "nn.silu",
    "nn.leakyrelu",
)
NARY = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "power",
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "where",
)
COMMUTATIVE = ("relax.add", "relax.multiply")
NEUTRAL = {"add": 0, "subtract": 0, "multiply": 1, "divide": 1, "logical_and": 1, "logical_or": 0}


LOGICAL = {
    f"relax.bitwise_{name}": tvm.ir.Op.get(f"relax.logical_{name}")
    for name in ("and", "or", "xor", "not")
}
"""Of truth values the two are one: importers differ in which they take."""


def apply(graph: Graph, call: relax.Call, args: list[Any]) -> Tensor:
    """The elementwise operator of ``call`` on the values ``args``, its operands in that order."""
    if call.op.name in LOGICAL and all(arg.dtype == "bool" for arg in args):
        call = graph.typed(relax.Call(LOGICAL[call.op.name], call.args))
    operands = [_shrunk(arg) if isinstance(arg, Static) else arg for arg in args]
    shape = shape_of(call)
    kept = _kept(call.op.name.removeprefix("relax."), operands)
    if kept is not None:
        return kept.widened(shape)
    if call.op.name in COMMUTATIVE and isinstance(operands[0], Static):
        operands.reverse()
    tensors = [o for o in operands if isinstance(o, Tensor)]
    view, operands = _on_base(tensors, operands) or (None, operands)
    if call.op.name == "relax.add" and _is_bias(graph, operands):
        operands[1] = graph.own(operands[1])
    exprs = [graph.read(o.narrow if isinstance(o, Tensor) else o) for o in operands]
    var = graph.emit(relax.Call(call.op, exprs, call.attrs, call.ty_args))
    if view is None:
        return Tensor.of(var).widened(shape)
    return Tensor(var, rebased(view, shape_of(var))).widened(shape)


def binary(graph: Graph, name: str, x: Tensor, y: Static) -> Tensor:
    """``x`` with a known operand that broadcasts to it; ``name`` is "add", "multiply", ..."""
    placeholders = [relax.Var("v", relax.TensorType(v.shape, x.dtype)) for v in (x, y)]
    return apply(graph, graph.typed(getattr(relax.op, name)(*placeholders)), [x, y])


def _is_bias(graph: Graph, operands: list[Any]) -> bool:
    """Whether this adds a vector to the result of a linear layer or a convolution."""
    x, vector = operands
    if not isinstance(x, Tensor) or not isinstance(vector, Static) or len(vector.shape) != 1:
        return False
    product = graph.producer(x.var, "matmul")
    layer = product is not None and graph.producer(product.args[1], "permute_dims") is not None
    return layer or graph.producer(x.var, "nn.conv2d") is not None


def rebased(view: View, base: Shape) -> View:
    """The same view of another base with the same atoms."""
    return View(base, view.atoms, view.order, view.shape)


def _on_base(tensors: list[Tensor], operands: list[Any]) -> tuple[View, list[Any]] | None:
    """The operands as they meet the base of one of them, and the view that gives the result.

    None if the operator is to run on the operands as they are read: no view is worth it, or a
    known operand would have to be repeated on the base.
    """
    view = tensors[0].view
    base = View.of(view.base)
    if not all(t.view.base == view.base and t.view.steps() == view.steps() for t in tensors):
        wide = np.broadcast_shapes(*(t.view.shape for t in tensors))
        found = next((t.view for t in tensors if t.view.shape == wide and t.view.turned), None)
        if found is None:
            return None
        view, base = found, View.of(found.base)
    elif view.trivial:
        return None
    statics = [o for o in operands if isinstance(o, Static) and o.array.size > 1]
    if statics and all(len(s.shape) == 1 for s in statics):
        base = view.trailing() or base
    moved = [o.onto(view, base.shape) if isinstance(o, Tensor | Static) else o for o in operands]
    return None if any(o is None for o in moved) else (view, moved)


def _shrunk(value: Static) -> Static:
    """Without the axes along which the value repeats itself.

    The last axis stays, unless all numbers are the same one and it is no vector (a bias).
    """
    array = value.array
    if value.is_vector:
        return value
    if array.size > 1 and (array == array.reshape(-1)[0]).all():
        array = array[(slice(0, 1),) * array.ndim]
    for axis in range(array.ndim - 1):
        first = np.take(array, [0], axis=axis)
        if array.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, array.shape), array):
            array = first
    return value if array is value.array else Static(array, value.name)


def _kept(name: str, operands: list[Any]) -> Tensor | None:
    """The operand that the result equals: x + 0, x * 1, true and x, where(true, x, y)."""
    if name == "where" and isinstance(operands[0], Static):
        condition: Array = operands[0].array
        chosen = operands[1] if condition.all() else operands[2]
        certain = condition.all() or not condition.any()
        return chosen if certain and isinstance(chosen, Tensor) else None
    if len(operands) != 2:
        return None
    neutral = NEUTRAL.get(name)
    x, y = operands
    if neutral is not None and isinstance(x, Tensor) and _all(y, neutral):
        return x
    swaps = name not in ("subtract", "divide")
    if neutral is not None and swaps and isinstance(y, Tensor) and _all(x, neutral):
        return y
    return None


def _all(value: Value, number: int) -> bool:
    """Whether a known operand is this number everywhere; vectors are left in place.

    A bias of zeros is part of a linear layer: a model without training must not look faster than
    the same model with it.
    """
    if not isinstance(value, Static) or value.is_vector:
        return False
    return bool((value.array == number).all())


RULES: Mapping[str, Callable[..., Value | None]] = {
    f"relax.{name}": apply for name in (*UNARY, *NARY)
}
