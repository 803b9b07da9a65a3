"""Elementwise functions as polynomials: they vectorise, where calls of libm do not.

Each is written in stages (one tensor a stage), so that inlining never multiplies an expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
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

# The normal distribution: Phi(u) - 1/2 = u P(u^2) / Q(u^2) on |u| <= 5.25, fitted by differential
# correction (Cheney, Introduction to Approximation Theory, ch. 5) so that the error of u Phi(u) is
# smallest; beyond, Phi is 0 or 1 to 8e-8.
_PHI_LIMIT = 5.25
_PHI_P = (
    7.805419045325834e-06, 0.0004249737539794296, 0.0061974613927304745, 0.05921636521816254,
    0.39893966913223267,
)  # fmt: skip
_PHI_Q = (
    6.471631195381633e-07, 0.00015469927166122943, 0.00331941363401711, 0.04308439791202545,
    0.3150731921195984, 1.0,
)  # fmt: skip

# 2^f on |f| <= 1/2 to 9e-8 relative: minimax, by linear programming, with constant term 1.
_EXP2 = (
    0.001326465280726552, 0.009671511128544807, 0.05550733953714371, 0.24022242426872253,
    0.6931470036506653, 1.0,
)  # fmt: skip
_LOG2_E = math.log2(math.e)

UNIT = _LOG2_E * 2.0**23
"""An exponent times this, as an integer, is the bits of its exponential, but for those of 1.0 and the
curve of the mantissa (Schraudolph, Neural Computation 11, 1999)."""

ONE, MANTISSA = 0x3F800000, 0x7FFFFF
"""Bits of the float32 1.0, and those of any mantissa."""

# 2^(m-1) / m for a mantissa 1 <= m < 2 to 5.3e-3 relative, equal at both ends, so that there is no step
# where the exponent changes: minimax, by linear programming.
_SHORT_CURVE = (0.2220885, -0.6662655, 1.4419472)
SHORT_EXP_ERROR = 5.3e-3
"""Largest relative error of ``te_short_exp``."""
_SHORT_LOW = -120.0 * 2.0**23

_EXP_LOW, _EXP_HIGH = -86.6, 88.3  # from 2^-125 to 2^127.4


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


def te_exp(x: te.Tensor, *, positive: bool = True) -> te.Tensor:
    """exp(x); relative error below 3e-7 for abs(x) < 10, below 2e-6 up to the ends of its range.

    It stops at 2.4e-38 and 2.1e38, so it is never 0 or infinite. With ``positive`` False the caller
    promises that no x is above 0.
    """

    def inside(v: tirx.Expr) -> tirx.Expr:
        return tirx.max(tirx.min(v, f32(_EXP_HIGH)) if positive else v, f32(_EXP_LOW))

    clamped = stage("exp_in", x, inside)
    power = stage("exp_power", clamped, lambda v: tirx.floor(v * f32(_LOG2_E) + f32(0.5)))
    rest = stage("exp_rest", clamped, lambda v, n: v * f32(_LOG2_E) - n, power)
    small = stage("exp_poly", rest, lambda r: horner(_EXP2, r))
    return stage("exp", small, times_two_to_the, power)


def times_two_to_the(value: tirx.Expr, n: tirx.Expr) -> tirx.Expr:
    """value * 2^n for a whole float32 n: adds n to the exponent's bits, so the result must be normal."""
    step = tirx.shift_left(n.astype("int32"), tirx.IntImm("int32", 23))
    return tirx.reinterpret("float32", tirx.reinterpret("int32", value) + step)


def te_short_exp(x: te.Tensor) -> te.Tensor:
    """exp(x) for x <= 0, relative error below ``SHORT_EXP_ERROR``; it stops at 2^-120.

    Two thirds of the instructions of `te_exp`, whose stages it has.
    """
    clamped = stage("exp_in", x, lambda v: tirx.max(v * f32(UNIT), f32(_SHORT_LOW)))
    power = stage("exp_power", clamped, lambda v: v.astype("int32"))
    mantissa = stage("exp_rest", power, mantissa_of)
    small = stage("exp_poly", mantissa, lambda m: horner(_SHORT_CURVE, m))
    return stage("exp", small, lambda v, p: float_of(p + ONE) * v, power)


def short_exp_reference(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """What `te_short_exp` computes, in float64."""
    power = np.maximum(np.asarray(x, np.float64) * UNIT, _SHORT_LOW) / 2.0**23
    whole = np.floor(power)
    mantissa = 1 + power - whole
    return np.exp2(whole) * mantissa * np.polyval(_SHORT_CURVE, mantissa)


def mantissa_of(power: tirx.Expr) -> tirx.Expr:
    """1 <= m < 2, the mantissa of the float32 whose bits are ``power`` and those of a whole exponent."""
    return float_of((power & MANTISSA) | ONE)


def float_of(bits: tirx.Expr) -> tirx.Expr:
    """The float32 of these bits."""
    return tirx.reinterpret("float32", bits)


def te_erf(x: te.Tensor) -> te.Tensor:
    """erf(x), absolute error below 5e-7."""
    limit = f32(_ERF_LIMIT)
    clamped = stage("erf_in", x, lambda v: tirx.max(tirx.min(v, limit), -limit))
    square = stage("erf_square", clamped, lambda v: v * v)
    top = stage("erf_top", square, lambda s: horner(_ERF_P, s))
    return stage("erf", clamped, lambda v, p, s: v * p / horner(_ERF_Q, s), top, square)


def te_gelu(x: te.Tensor) -> te.Tensor:
    """GELU ``x Phi(x)`` (the erf form); error below 3e-7 of max(1, abs(x))."""
    limit = f32(_PHI_LIMIT)
    clamped = stage("phi_in", x, lambda v: tirx.max(tirx.min(v, limit), -limit))
    square = stage("phi_square", clamped, lambda v: v * v)
    top = stage("phi_top", clamped, lambda v, s: v * horner(_PHI_P, s), square)
    return stage("gelu", x, lambda v, p, s: v * (f32(0.5) + p / horner(_PHI_Q, s)), top, square)


def te_tanh(x: te.Tensor) -> te.Tensor:
    """tanh(x) = 1 - 2 / (exp(2x) + 1), absolute error below 3e-7."""
    doubled = stage("twice", x, lambda v: v + v)
    return stage("tanh", te_exp(doubled), lambda e: f32(1.0) - f32(2.0) / (e + f32(1.0)))


def te_gelu_tanh(x: te.Tensor) -> te.Tensor:
    """The tanh form of GELU; error below 5e-7 of max(1, abs(x))."""
    c = f32(math.sqrt(2.0 / math.pi))
    inner = stage("gelu_in", x, lambda v: c * v * (f32(1.0) + f32(0.044715) * v * v))
    half = stage("half", x, lambda v: v * f32(0.5))
    return stage("gelu_tanh", half, lambda h, t: h + h * t, te_tanh(inner))


def te_sigmoid(x: te.Tensor) -> te.Tensor:
    """1 / (1 + exp(-x)), absolute error below 2e-7."""
    negative = stage("negative", x, lambda v: -v)
    return stage("sigmoid", te_exp(negative), lambda e: f32(1.0) / (f32(1.0) + e))


def te_silu(x: te.Tensor) -> te.Tensor:
    """x * sigmoid(x), error below 2e-7 of max(1, abs(x))."""
    return stage("silu", x, lambda v, s: v * s, te_sigmoid(x))
