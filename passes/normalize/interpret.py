"""Reads the imported function once, operator by operator, and writes the canonical one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from passes.errors import PassError
from passes.normalize import (
    activation,
    attention,
    axes,
    batch_norm,
    clip,
    conv,
    elementwise,
    indexing,
    kernels,
    linear,
    norm,
    pool,
    quantization,
    reduce,
    shapes,
)
from passes.normalize.fold import evaluate
from passes.normalize.graph import Graph
from passes.normalize.values import Static, Tensor, Value

Rule = Callable[[Graph, relax.Call, list[Any]], "Value | None"]

RULES: Mapping[str, Rule] = {
    **shapes.RULES,
    **indexing.RULES,
    **elementwise.RULES,
    **clip.RULES,
    **kernels.RULES,
    **axes.RULES,
    **reduce.RULES,
    **linear.RULES,
    **conv.RULES,
    **pool.RULES,
    **quantization.RULES,
    **norm.RULES,
    **batch_norm.RULES,
    **attention.RULES,
}
"""What each operator means; where a rule returns None the operator stays."""

AFTER: Mapping[str, Callable[[Graph, Tensor], Tensor]] = {
    "relax.multiply": activation.recognise,
    "relax.divide": activation.recognise,
    "relax.add": norm.recognise,
}
"""Looked at once the operator is written: the last part of something decomposed."""


class Interpreter:
    """Evaluates a Relax function on values that are known arrays or views of the new graph."""

    def __init__(self, graph: Graph, bound: Mapping[relax.Var, Value]) -> None:
        self._graph = graph
        self._values: dict[relax.Var, Value] = dict(bound)

    def run(self, function: relax.Function) -> Value:
        """Interpret the body; returns the value of its result."""
        for block in function.body.blocks:
            for binding in block.bindings:
                if not isinstance(binding, relax.VarBinding):
                    raise _unsupported(binding.var.name, "a shape that is known only at run time")
                self._values[binding.var] = self.value(binding.value)
        return self.value(function.body.body)

    def value(self, expr: relax.Expr) -> Value:
        """The value of an operand or of the right side of a binding."""
        if isinstance(expr, relax.Var):
            return self._values[expr]
        if isinstance(expr, tvm.ir.GenericConst):
            return Static(expr.value.numpy())
        if isinstance(expr, relax.Tuple):
            return tuple(self.value(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            fields = self.value(expr.tuple_value)
            assert isinstance(fields, tuple)
            return fields[expr.index]
        if isinstance(expr, relax.If | relax.SeqExpr | relax.Function):
            raise _unsupported(type(expr).__name__, "branches, loops and nested functions")
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            return self._call(expr)
        return expr

    def _call(self, call: relax.Call) -> Value:
        args = [self.value(arg) for arg in call.args]
        if call.op.name == "relax.shape_of":
            assert isinstance(args[0], Tensor | Static)
            return relax.ShapeExpr(list(args[0].shape))
        if all(_is_known(arg) for arg in args) and not quantization.stays_codes(call, args):
            folded = _fold(call, args)
            if folded is not None:
                return folded
        rule = RULES.get(call.op.name)
        result = rule(self._graph, call, args) if rule else None
        if result is None:
            result = self._keep(call, args)
        after = AFTER.get(call.op.name)
        return after(self._graph, result) if after and isinstance(result, Tensor) else result

    def _keep(self, call: relax.Call, args: list[Value]) -> Value:
        """The operator as it is, on operands that are written out."""
        operands = [self._graph.read(arg) for arg in args]
        var = self._graph.emit(relax.Call(call.op, operands, call.attrs, call.ty_args))
        return _unpacked(self._graph, var)


def _unpacked(graph: Graph, var: relax.Var) -> Value:
    if isinstance(var.ty, relax.TupleType):
        fields = range(len(var.ty.fields))
        return tuple(_unpacked(graph, graph.emit(relax.TupleGetItem(var, i))) for i in fields)
    return Tensor.of(var) if isinstance(var.ty, relax.TensorType) else var


def _is_known(value: Value) -> bool:
    if isinstance(value, tuple):
        return all(_is_known(v) for v in value)
    return not isinstance(value, Tensor | relax.Var | tvm.ir.GlobalVar | relax.ExternFunc)


def _fold(call: relax.Call, args: list[Value]) -> Value | None:
    """The known result; it keeps the name of the weight that it is made of, if that is only one.

    What is made of codes is called like the codes.
    """
    arrays = evaluate(call, [_plain(arg) for arg in args])
    if arrays is None:
        return None
    named = args[:1] if call.op.name == "relax.dequantize" else args
    names = {arg.name for arg in named if isinstance(arg, Static) and arg.name}
    name = names.pop() if len(names) == 1 else ""
    folded = tuple(Static(array, name) for array in arrays)
    return folded if isinstance(call.ty, relax.TupleType) else folded[0]


def _plain(value: Value) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return np.asarray(value.array) if isinstance(value, Static) else value


def _unsupported(got: str, what: str) -> PassError:
    return PassError(
        f"the model has {what}, which normalisation does not handle",
        got=got,
        allowed="a straight line of operators with static shapes",
        next="export the model for fixed input shapes and without data-dependent control flow",
    )
