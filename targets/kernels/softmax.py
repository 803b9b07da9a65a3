"""Softmax over the last dimension."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from targets.kernels.activation import te_exp
from targets.kernels.primfunc import axis, dims, f32, family, prim_func

FAMILY_NAME = "softmax"


def softmax(shape: Sequence[int]) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[*shape]) -> y f32[*shape]``, relative error below 1e-6."""
    *lead, width = shape
    x = te.placeholder(dims(*shape), "float32", name="x")
    a, b = axis(width, "a"), axis(width, "b")
    peak = te.compute(
        dims(*lead), lambda *i: te.max(x[(*i, a)], axis=a), name="peak", attrs=family(FAMILY_NAME)
    )
    below = te.compute(dims(*shape), lambda *i: x[i] - peak[i[:-1]], name="below")
    e = te_exp(below, positive=False)
    total = te.compute(dims(*lead), lambda *i: te.sum(e[(*i, b)], axis=b), name="total")
    inverse = te.compute(dims(*lead), lambda *i: f32(1) / total[i], name="inverse")
    y = te.compute(dims(*shape), lambda *i: e[i] * inverse[i[:-1]], name="y")
    return prim_func([x, y])
