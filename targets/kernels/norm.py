"""Layer normalisation over the last dimension."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from targets.kernels.primfunc import axis, dims, f32, family, prim_func

FAMILY_NAME = "layer_norm"


def layer_norm(shape: Sequence[int], eps: float) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[*shape], gamma f32[c], beta f32[c]) -> y f32[*shape]``, c the last extent.

    The variance is the mean of squared deviations (two passes over the row, which stays in the
    first-level cache), so that rows with a large mean lose no digits.
    """
    *lead, width = shape
    x = te.placeholder(dims(*shape), "float32", name="x")
    gamma = te.placeholder(dims(width), "float32", name="gamma")
    beta = te.placeholder(dims(width), "float32", name="beta")
    a, b = axis(width, "a"), axis(width, "b")
    total = te.compute(dims(*lead), lambda *i: te.sum(x[(*i, a)], axis=a), name="total")
    mean = te.compute(dims(*lead), lambda *i: total[i] * f32(1 / width), name="mean")
    spread = te.compute(
        dims(*lead),
        lambda *i: te.sum((x[(*i, b)] - mean[i]) * (x[(*i, b)] - mean[i]), axis=b),
        name="spread",
        attrs=family(FAMILY_NAME),
    )
    gain = te.compute(
        dims(*lead),
        lambda *i: f32(1) / tirx.sqrt(spread[i] * f32(1 / width) + f32(eps)),
        name="gain",
    )
    y = te.compute(
        dims(*shape),
        lambda *i: (x[i] - mean[i[:-1]]) * gain[i[:-1]] * gamma[i[-1]] + beta[i[-1]],
        name="y",
    )
    return prim_func([x, gamma, beta, y])
