"""Elementwise operators: computed on the base of a view, before a broadcast, if that is equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
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
    "nn.relu",
    "nn.silu",
    "nn.leakyrelu",
    "clip",
)
NARY = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "power",
    "maximum",
    "minimum",
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


def _elementwise(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """The operator on narrow operands, through their view if they have one in common."""
    name = call.op.name.removeprefix("relax.")
    operands = [_shrunk(arg) if isinstance(arg, Static) else arg for arg in args]
    tensors = [o for o in operands if isinstance(o, Tensor)]
    shape = shape_of(call)
    kept = _kept(name, operands)
    if kept is not None:
        return kept.widened(shape)
    if call.op.name in COMMUTATIVE and isinstance(operands[0], Static):
        operands.reverse()
    if call.op.name == "relax.add" and _is_bias(graph, operands):
        operands[1] = graph.own(operands[1])
    base = _common_base(tensors, operands)
    if base is None:
        exprs = [graph.read(o.narrow if isinstance(o, Tensor) else o) for o in operands]
        return graph.tensor(_again(call, exprs)).widened(shape)
    view = tensors[0].view
    exprs = [
        graph.read(Tensor(o.var, base) if isinstance(o, Tensor) else _on_base(o, view, base))
        if isinstance(o, Tensor | Static)
        else o
        for o in operands
    ]
    var = graph.emit(_again(call, exprs))
    return Tensor(var, rebased(view, base.shape)).widened(shape)


def _is_bias(graph: Graph, operands: list[Any]) -> bool:
    """Whether this adds a vector to the result of a linear layer."""
    x, vector = operands
    if not isinstance(x, Tensor) or not isinstance(vector, Static) or len(vector.shape) != 1:
        return False
    product = graph.producer(x.var, "matmul")
    return product is not None and graph.producer(product.args[1], "permute_dims") is not None


def rebased(view: View, base: Shape) -> View:
    """The same view of another base with the same atoms."""
    return View(base, view.atoms, view.order, view.shape)


def _again(call: relax.Call, args: list[relax.Expr]) -> relax.Call:
    return relax.Call(call.op, args, call.attrs, call.ty_args)


def _common_base(tensors: list[Tensor], operands: list[Any]) -> View | None:
    """How to read the bases of tensors that share one view, so that the operator can run there.

    None if they share none, or if a known operand would have to be repeated there.
    """
    view = tensors[0].view
    if view.trivial or any(
        t.view.base != view.base or t.view.steps() != view.steps() for t in tensors
    ):
        return None
    statics = [o for o in operands if isinstance(o, Static) and o.array.size > 1]
    if any(np.broadcast_shapes(s.shape, view.shape) != view.shape for s in statics):
        return None
    vectors = all(len(s.shape) == 1 for s in statics)
    base = (view.trailing() if statics and vectors else None) or View.of(view.base)
    grows = any(_on_base(s, view, base).array.size > s.array.size for s in statics)
    return None if grows else base


def _on_base(operand: Static, view: View, base: View) -> Static:
    """A known operand as it meets the base instead of the view."""
    if operand.array.size == 1:
        return Static(operand.array.reshape(()), operand.name)
    if len(operand.shape) == 1 and base.shape[-1] == operand.shape[0] and view.trailing():
        return operand
    array = view.inverse(np.broadcast_to(operand.array, view.shape)).reshape(base.shape)
    return _shrunk(Static(array, operand.name))


def _shrunk(value: Static) -> Static:
    """Without the axes along which the value repeats itself.

    The last axis stays, unless all numbers are the same one and it is no vector (a bias).
    """
    array = value.array
    if array.ndim != 1 and array.size > 1 and (array == array.reshape(-1)[0]).all():
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
    boolean = all(getattr(o, "dtype", "") == "bool" for o in operands)
    neutral = NEUTRAL.get(name.replace("bitwise", "logical") if boolean else name)
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
    if not isinstance(value, Static) or (value.array.ndim == 1 and value.array.size > 1):
        return False
    return bool((value.array == number).all())


RULES: Mapping[str, Callable[..., Value | None]] = {
    f"relax.{name}": _elementwise for name in (*UNARY, *NARY)
}
