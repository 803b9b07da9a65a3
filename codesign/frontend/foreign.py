"""A model as an importer hands it over: in Relax, beside the original to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from codesign.errors import UserError
from passes.model import Model, TensorSpec

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Foreign:
    """An imported model beside its original.

    Attributes:
        model: in Relax, not normalised.
        original: "PyTorch" or "ONNX Runtime".
        reference: computes the outputs of the original from inputs by name.
    """

    model: Model
    original: str
    reference: Callable[[Mapping[str, Array]], Sequence[Array]]


def as_model(
    mod: tvm.IRModule,
    inputs: Sequence[str],
    weights: Mapping[str, Array],
    outputs: Sequence[str],
    name: str,
) -> Model:
    """A module of one of TVM's importers as a Model, under the names that the user knows.

    Args:
        mod: its ``main`` takes the inputs, then the weights, in the order given here.
        inputs, outputs: their names.
        weights: by name.
        name: of the model.

    Raises:
        UserError: a weight is NaN or infinite, or an input has a dynamic dimension left.
    """
    for weight, array in weights.items():
        _check_finite(weight, array)
    main = mod["main"]
    names = [*inputs, *weights]
    params = [relax.Var(n, p.ty) for n, p in zip(names, main.params, strict=True)]
    body = main.bind_params(dict(zip(main.params, params, strict=True))).body
    if not isinstance(main.ret_ty, relax.TupleType):
        outputs_as_tuple = relax.SeqExpr(body.blocks, relax.Tuple([body.body]))
        body = relax.BlockBuilder().normalize(outputs_as_tuple)
    function = relax.Function(params, body).with_attr("global_symbol", "main")
    others = {v: f for v, f in mod.functions_items() if v.name_hint != "main"}
    module = _InBounds(tvm.IRModule({**others, tvm.ir.GlobalVar("main"): function})).run()
    types = module["main"].ret_ty.fields
    return Model(
        module,
        dict(weights),
        tuple(_spec(p.name, p.ty) for p in params[: len(inputs)]),
        tuple(_spec(n, ty) for n, ty in zip(outputs, types, strict=True)),
        name,
    ).check("import")


def _spec(name: str, ty: relax.TensorType) -> TensorSpec:
    if any(not isinstance(n, tvm.tirx.IntImm) for n in ty.shape.values):
        raise UserError(
            f"the shape of {name} is still dynamic after binding",
            got=str(ty.shape),
            next="export the model with fixed shapes",
        )
    return TensorSpec(name, tuple(int(n) for n in ty.shape.values), str(ty.dtype))


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    bad = int(array.size - np.isfinite(array).sum())
    raise UserError(
        f"weight {name} holds NaN or infinite numbers",
        got=f"{bad} of {array.size} numbers",
        allowed="finite weights",
        next="check the checkpoint: training may have diverged, or the file is damaged",
    )


@mutator
class _InBounds(PyExprMutator):  # type: ignore[misc]
    """Makes look-ups stay in their table: importers leave out the check, and TVM warns of it."""

    def run(self) -> tvm.IRModule:
        main = self.builder_.get().get_global_var("main")
        self.builder_.update_func(main, self.visit_expr(self.builder_.get()["main"]))
        return self.builder_.get()

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if call.op == tvm.ir.Op.get("relax.take") and str(call.attrs.mode) == "fast":
            axis = None if call.attrs.axis is None else int(call.attrs.axis)
            return relax.op.take(call.args[0], call.args[1], axis=axis, mode="clip")
        return call
