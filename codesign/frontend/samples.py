"""Random inputs that a model accepts: token ids inside their table, masks of ones with padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.model import Model, TensorSpec

Array = NDArray[np.generic]


def draw(model: Model, seed: int) -> dict[str, Array]:
    """One random input for each input of a model, by name.

    Integers that index a weight are drawn below its length; other integers and booleans are taken
    for masks: ones, with some zeros at the end of each row. Floats are standard normal.
    """
    rng = np.random.default_rng(seed)
    limits = _index_limits(model)
    return {spec.name: _draw(spec, limits.get(spec.name), rng) for spec in model.inputs}


def _draw(spec: TensorSpec, limit: int | None, rng: np.random.Generator) -> Array:
    if spec.dtype.startswith(("float", "bfloat")):
        return rng.standard_normal(spec.shape).astype(spec.dtype)
    if limit is not None:
        return rng.integers(0, limit, spec.shape).astype(spec.dtype)
    return _mask(spec)


def _mask(spec: TensorSpec) -> Array:
    mask = np.ones(spec.shape, spec.dtype)
    if len(spec.shape) < 2 or spec.shape[-1] < 4:
        return mask
    rows = mask.reshape(-1, spec.shape[-1])
    for i, row in enumerate(rows):
        row[len(row) - 1 - i % (len(row) // 4) :] = 0
    return mask


def _index_limits(model: Model) -> dict[str, int]:
    """For each input whose numbers index a weight: the length of the shortest such weight."""
    comes_from: dict[relax.Var, set[str]] = {
        p: {p.name} for p in model.main.params[: len(model.inputs)]
    }
    limits: dict[str, int] = {}
    for block in model.main.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if _is_lookup(model, value):
                length = int(value.args[0].ty.shape.values[int(value.attrs.axis)])
                for name in comes_from.get(value.args[1], ()):
                    limits[name] = min(limits.get(name, length), length)
            if str(getattr(binding.var.ty, "dtype", "")).startswith(("int", "uint")):
                read = relax.analysis.free_vars(value)
                comes_from[binding.var] = set().union(*(comes_from.get(v, set()) for v in read))
    return limits


def _is_lookup(model: Model, value: relax.Expr) -> bool:
    if not isinstance(value, relax.Call) or getattr(value.op, "name", "") != "relax.take":
        return False
    table, index = value.args[:2]
    known = isinstance(table, relax.Var) and table.name in model.weights
    return known and isinstance(index, relax.Var) and value.attrs.axis is not None
