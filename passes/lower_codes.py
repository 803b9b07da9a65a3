"""Weights that are still codes when a model is lowered become the float32 weights they stand for."""

from __future__ import annotations

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from passes.model import Model
from passes.normalize.fold import evaluate
from passes.rewrite import Rewriting, bindings_of, rewrite

VALUE = ".value"
"""Suffix of the weight that is made of codes."""

Array = NDArray[np.generic]


def compute_codes(model: Model) -> Model:
    """Replace ``R.dequantize(codes, scale, zero)`` of weights by its value, a weight.

    Kernels on integers take their weights before this; for any other kernel it is computed here once
    instead of in every run. Exact.
    """
    values: dict[relax.Var, str] = {}
    weights = dict(model.weights)
    for binding in bindings_of(model):
        call = binding.value
        if getattr(getattr(call, "op", None), "name", "") != "relax.dequantize":
            continue
        arrays = [_known(model, a) for a in call.args]
        if all(a is not None for a in arrays):
            found = evaluate(call, arrays)
            assert found is not None
            name = call.args[0].name + VALUE
            values[binding.var], weights[name] = name, found[0]
    if not values:
        return model

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        return graph.weight(values[var]) if var in values else None

    return rewrite(model, weights, edit, name="compute codes")


def _known(model: Model, expr: relax.Expr) -> Array | None:
    """The array of a weight or of a constant."""
    if isinstance(expr, tvm.ir.GenericConst):
        array: Array = expr.value.numpy()
        return array
    return model.weights.get(expr.name) if isinstance(expr, relax.Var) else None
