"""Writing ``main`` of a model again, binding by binding, with other weights or other operators.

Every binding is emitted anew on the new parameters, so that shapes follow from the weights; an
*edit* may put another expression in its place. Names of variables are kept, so that sites stay
valid; bindings and weights that nobody reads any more are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from passes.errors import PassError
from passes.model import Model

Weights = Mapping[str, NDArray[np.generic]]
Edit = Callable[["Rewriting", relax.Var, relax.Expr], relax.Expr | None]
"""From an old variable and its value: the new value, or None for the old one on new operands."""


class Rewriting:
    """A function under construction from an old one: what an edit sees.

    Args:
        model: the model to rewrite.
        weights: the weights of the new model, in the order of its parameters.
    """

    def __init__(self, model: Model, weights: Weights) -> None:
        kernels = {v: f for v, f in model.mod.functions_items() if v.name_hint != "main"}
        self._builder = relax.BlockBuilder(tvm.IRModule(kernels))
        self._old = model.main
        self._values = {b.var: b.value for b in bindings_of(model)}
        old = {p.name: p for p in self._old.params}
        inputs = [relax.Var(s.name, old[s.name].ty) for s in model.inputs]
        self._weights = {name: _parameter(name, w) for name, w in weights.items()}
        self._params = [*inputs, *self._weights.values()]
        self._new: dict[relax.Var, relax.Expr] = {}
        for new in self._params:
            if new.name in old:
                self._new[old[new.name]] = new

    def value(self, var: relax.Expr) -> relax.Expr | None:
        """The old value of an old variable; None for a parameter or anything else."""
        return self._values.get(var) if isinstance(var, relax.Var) else None

    def call(self, expr: relax.Expr, op: str) -> relax.Call | None:
        """``expr``, or the old value of an old variable, if it is a call of ``relax.<op>``."""
        value = self._values.get(expr, expr) if isinstance(expr, relax.Var) else expr
        return value if isinstance(value, relax.Call) and _is_op(value, op) else None

    def linear_weight(self, expr: relax.Expr) -> str | None:
        """The weight W if ``expr`` is ``matmul(x, permute_dims(W))`` with a weight parameter."""
        product = self.call(expr, "matmul")
        transposed = self.call(product.args[1], "permute_dims") if product is not None else None
        if transposed is None or not isinstance(transposed.args[0], relax.Var):
            return None
        weight = transposed.args[0]
        return weight.name if self.value(weight) is None else None

    def conv_weight(self, expr: relax.Expr) -> str | None:
        """The weight W if ``expr`` is ``conv2d(x, W)`` without groups, with a weight parameter."""
        conv = self.call(expr, "nn.conv2d")
        if conv is None or int(conv.attrs.groups) != 1 or not isinstance(conv.args[1], relax.Var):
            return None
        weight = conv.args[1]
        return weight.name if self.value(weight) is None else None

    def new(self, expr: relax.Expr) -> relax.Expr:
        """An old expression on the new variables."""
        if isinstance(expr, relax.Var):
            if expr not in self._new:
                raise PassError(
                    "a rewrite removed what is still read", got=expr.name, next="report a bug"
                )
            return self._new[expr]
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.new(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.new(expr.tuple_value), expr.index)
        if isinstance(expr, relax.Call):
            args = [self.new(a) for a in expr.args]
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
        return expr

    def put(self, old: relax.Var, new: relax.Var) -> None:
        """From here on an old variable is read as another new one."""
        self._new[old] = new

    def weight(self, name: str) -> relax.Var:
        """The new parameter of a weight."""
        return self._weights[name]

    def emit(self, expr: relax.Expr, name: str = "") -> relax.Var:
        """Bind a new expression to a new variable."""
        return self._builder.emit(expr, name_hint=name)

    def kernel(self, func: tirx.PrimFunc, name: str) -> relax.GlobalVar:
        """Add a PrimFunc to the module; an equal one that is there already is used again."""
        return self._builder.add_func(func, name)

    def finish(self, edit: Edit) -> tvm.IRModule:
        """Emit every binding, by ``edit`` where it gives something, and return the new module."""
        with self._builder.function("main", self._params, attrs=dict(self._old.attrs or {})):
            with self._builder.dataflow():
                for var, value in self._values.items():
                    self._bind(var, value, edit)
                out = self._builder.emit_output(self._results())
            self._builder.emit_func_output(out)
        return relax.transform.DeadCodeElimination()(self._builder.get())

    def _bind(self, var: relax.Var, value: relax.Expr, edit: Edit) -> None:
        if var.same_as(self._old.body.body) and isinstance(value, relax.Tuple):
            return  # the tuple of outputs is written last
        new = edit(self, var, value)
        if new is None:
            new = self.new(value)
        self._new[var] = new if isinstance(new, relax.Var) else self.emit(new, var.name)

    def _results(self) -> relax.Expr:
        result = self._old.body.body
        value = self._values.get(result, result) if isinstance(result, relax.Var) else result
        return self.new(value if isinstance(value, relax.Tuple) else result)


def rewrite(model: Model, weights: Weights, edit: Edit | None = None, *, name: str) -> Model:
    """The model on other ``weights``, changed by ``edit``, checked.

    Args:
        model: left as it is.
        weights: all weights that the new graph may read; those that it does not read are dropped.
        edit: changes single bindings; None changes none.
        name: of the pass, for errors.

    Raises:
        PassError: the new graph is not well-formed, or its outputs have another shape or dtype.
    """
    mod = Rewriting(model, weights).finish(edit or (lambda *_: None))
    mod, read = _only_read(mod, len(model.inputs))
    new = replace(model, mod=mod, weights={n: w for n, w in weights.items() if n in read})
    _check_outputs(new, name)
    return new.check(name)


def bindings_of(model: Model) -> list[relax.Binding]:
    """All bindings of ``main`` in order."""
    return [b for block in model.main.body.blocks for b in block.bindings]


def uses_of(model: Model, weight: str) -> int:
    """How many bindings of ``main`` read a weight, as it is or transposed."""
    readers: dict[str, list[relax.Binding]] = {}
    for binding in bindings_of(model):
        for var in relax.analysis.free_vars(binding.value):
            readers.setdefault(var.name, []).append(binding)
    count = 0
    for binding in readers.get(weight, []):
        value = binding.value
        transposed = isinstance(value, relax.Call) and _is_op(value, "permute_dims")
        count += len(readers.get(binding.var.name, [])) if transposed else 1
    return count


def require_own_weights(model: Model, site: str, weights: list[str]) -> None:
    """Raise PassError if a weight is missing or is read at more than one place of the graph."""
    for weight in weights:
        if weight not in model.weights:
            raise PassError(
                f"{site} has no weight in the model",
                got=weight,
                next="find the sites again after a pass that renames or removes weights",
            )
        if (uses := uses_of(model, weight)) > 1:
            raise PassError(
                f"{site} shares a weight, so it cannot be changed alone",
                got=f"{weight} is read at {uses} places",
                allowed="1",
            )


def _only_read(mod: tvm.IRModule, inputs: int) -> tuple[tvm.IRModule, set[str]]:
    """Drop weight parameters that ``main`` does not read; the module, and the names it reads."""
    func = mod["main"]
    read = {v.name for v in relax.analysis.free_vars(func.body)}
    params = [p for i, p in enumerate(func.params) if i < inputs or p.name in read]
    if len(params) < len(func.params):
        mod = tvm.IRModule(dict(mod.functions_items()))
        mod["main"] = relax.Function(params, func.body, func.ret_ty, attrs=func.attrs)
    return mod, read


def _check_outputs(model: Model, name: str) -> None:
    for spec, got in zip(model.outputs, model.main.ret_ty.fields, strict=True):
        shape = tuple(int(d) for d in got.shape.values)
        if (shape, str(got.dtype)) != (spec.shape, spec.dtype):
            raise PassError(
                f"output {spec.name} has changed after {name}",
                got=f"{got.dtype}{list(shape)}",
                allowed=f"{spec.dtype}{list(spec.shape)}",
            )


def _parameter(name: str, weight: NDArray[np.generic]) -> relax.Var:
    return relax.Var(name, relax.TensorType(weight.shape, str(weight.dtype)))


def _is_op(call: relax.Call, op: str) -> bool:
    return isinstance(call.op, tvm.ir.Op) and call.op.name == f"relax.{op}"
