"""Elementwise functions as polynomials: they vectorise, where calls of libm do not.

Each is written in stages (one tensor a stage), so that inlining never multiplies an expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import te, tirx

from targets.kernels.primfunc import f32

# erf(x) = x P(x^2) / Q(x^2) on |x| <= 3.832507, absolute error 4e-7; beyond it erf is +-1 in
# float32. The coefficients are those of Eigen (Eigen/src/Core/MathFunctionsImpl.h, erf_float).
_ERF_LIMIT = 3.832506856900711
_ERF_P = (
    0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861, 0.18520832239976145,
    1.128379143519084,
)  # fmt: skip
_ERF_Q = (
    -1.1791602954361697e-7, 0.000023547966471313185, 0.0010179625278914885, 0.014070470171167667,
    0.11098505178285362, 0.49746925110067538, 1.0,
)  # fmt: skip

# exp(r) on |r| <= ln(2)/2 to 2e-8 relative: Cephes expf (S. Moshier).
_EXP_P = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
    5.0000001201e-1,
)  # fmt: skip
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP_LOW, _EXP_HIGH = -87.33654, 88.37626


def horner(coefficients: tuple[float, ...], x: tirx.Expr) -> tirx.Expr:
    """The polynomial with the highest power first."""
    value: tirx.Expr = f32(coefficients[0])
    for c in coefficients[1:]:
        value = value * x + f32(c)
    return value


def stage(name: str, x: te.Tensor, value: Callable[..., tirx.Expr], *more: te.Tensor) -> te.Tensor:
    """One elementwise stage: ``value(x[i], more[0][i], ...)`` at every position i."""
    tensors = (x, *more)
    return te.compute(x.shape, lambda *i: value(*(t[i] for t in tensors)), name=name)


def te_exp(x: te.Tensor) -> te.Tensor:
    """exp(x), relative error below 2e-7; below -87.3 the smallest normal number, not 0."""
    clamped = stage("exp_in", x, lambda v: tirx.max(tirx.min(v, f32(_EXP_HIGH)), f32(_EXP_LOW)))
    power = stage("exp_power", clamped, lambda v: tirx.floor(v * f32(math.log2(math.e)) + f32(0.5)))
    rest = stage(
        "exp_rest", clamped, lambda v, n: v - n * f32(_LN2_HIGH) - n * f32(_LN2_LOW), power
    )
    small = stage("exp_poly", rest, lambda r: horner((*_EXP_P, 1.0, 1.0), r))
    return stage("exp", small, lambda p, n: p * two_to_the(n), power)


def two_to_the(n: tirx.Expr) -> tirx.Expr:
    """2^n for a float32 with a whole value in [-126, 127]."""
    bits = tirx.shift_left(n.astype("int32") + tirx.IntImm("int32", 127), tirx.IntImm("int32", 23))
    return tirx.reinterpret("float32", bits)


def te_erf(x: te.Tensor, scale: float = 1.0) -> te.Tensor:
    """erf(scale * x), absolute error below 5e-7."""
    limit = f32(_ERF_LIMIT)
    clamped = stage("erf_in", x, lambda v: tirx.max(tirx.min(v * f32(scale), limit), -limit))
    square = stage("erf_square", clamped, lambda v: v * v)
    top = stage("erf_top", square, lambda s: horner(_ERF_P, s))
    return stage(
        "erf", clamped, lambda v, p, s: v * p / horner(_ERF_Q, s), top, square
    )


def te_gelu(x: te.Tensor) -> te.Tensor:
    """GELU ``0.5 x (1 + erf(x / sqrt 2))``; error below 5e-7 of max(1, \\|x\\|)."""
    half = stage("half", x, lambda v: v * f32(0.5))
    return stage("gelu", half, lambda h, e: h + h * e, te_erf(x, math.sqrt(0.5)))


def te_tanh(x: te.Tensor) -> te.Tensor:
    """tanh(x) = 1 - 2 / (exp(2x) + 1), absolute error below 3e-7."""
    doubled = stage("twice", x, lambda v: v + v)
    return stage("tanh", te_exp(doubled), lambda e: f32(1.0) - f32(2.0) / (e + f32(1.0)))


def te_gelu_tanh(x: te.Tensor) -> te.Tensor:
    """The tanh form of GELU; error below 5e-7 of max(1, \\|x\\|)."""
    c = f32(math.sqrt(2.0 / math.pi))
    inner = stage("gelu_in", x, lambda v: c * v * (f32(1.0) + f32(0.044715) * v * v))
    half = stage("half", x, lambda v: v * f32(0.5))
    return stage("gelu_tanh", half, lambda h, t: h + h * t, te_tanh(inner))


def te_sigmoid(x: te.Tensor) -> te.Tensor:
    """1 / (1 + exp(-x)), absolute error below 2e-7."""
    negative = stage("negative", x, lambda v: -v)
    return stage("sigmoid", te_exp(negative), lambda e: f32(1.0) / (f32(1.0) + e))


def te_silu(x: te.Tensor) -> te.Tensor:
    """x * sigmoid(x), error below 2e-7 of max(1, \\|x\\|)."""
    return stage("silu", x, lambda v, s: v * s, te_sigmoid(x))
