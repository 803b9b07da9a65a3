"""Dense bfloat16 linear layers: activations and weights rounded to 16 bits, sums in float32.

A bfloat16 is the upper half of a float32, so its bits travel as uint16 and cost a shift where there is no
instruction for them. Instructions add the two products of a pair in float32, the second one first, and
take values below the smallest normal number for zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.linear import accumulated, accumulator_shape, input_index
from targets.kernels.primfunc import axis, dims, family, prim_func

FAMILY_NAME = "linear_bf16"

GROUP = 2
"""Inputs that one bfloat16 dot-product instruction consumes."""

_ELEMENTWISE, _OPAQUE = (
    0,
    8,
)  # relax's OpPatternKind: fused into the kernel that makes its input, or never
_QUIET_NAN = 0x7FC0


def dense_bf16(lead: Sequence[int], k: int, n: int, nb: int) -> tirx.PrimFunc:
    """PrimFunc ``(x u16[*lead, 2g], w u16[ceil(n/nb), g, nb, 2]) -> y f32[*lead, n]``, g = ceil(k/2)."""
    groups = -(-k // GROUP)
    x = te.placeholder(dims(*lead, groups * GROUP), "uint16", name="x")
    w = te.placeholder(dims(-(-n // nb), groups, nb, GROUP), "uint16", name="w")
    g, i = axis(groups, "g"), axis(GROUP, "i")
    acc = te.compute(
        accumulator_shape(lead, n, nb),
        lambda *at: te.sum(
            te_widen(x[(*input_index(lead, at[:-2]), g * GROUP + i)])
            * te_widen(w[at[-2], g, at[-1], i]),
            axis=[g, i],
        ),
        name="linear",
        attrs=family(FAMILY_NAME),
    )
    y = te.compute(dims(*lead, n), lambda *i: accumulated(acc, lead, i), name="y")
    return prim_func([x, w, y])


def round_to_bf16(lead: Sequence[int], k: int) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[*lead, k]) -> (b u16[*lead, 2 ceil(k/2)])``, rounded to nearest, ties to even.

    For even k, relax fuses it into the kernel that makes x, if nothing else reads that.
    """
    width = -(-k // GROUP) * GROUP
    x = te.placeholder(dims(*lead, k), "float32", name="x")

    def value(*index: tirx.Var) -> tirx.Expr:
        if width == k:
            return te_round(x[index])
        zero = tirx.IntImm("uint16", 0)
        return tirx.if_then_else(index[-1] < k, te_round(x[index]), zero)

    b = te.compute(dims(*lead, width), value, name="b")
    pattern = _ELEMENTWISE if width == k else _OPAQUE
    return prim_func([x, b]).with_attr("op_pattern", pattern)


def te_widen(bits: tirx.Expr) -> tirx.Expr:
    """float32 of the bits of a bfloat16."""
    return tirx.reinterpret("float32", tirx.shift_left(bits.astype("uint32"), _u32(16)))


def te_round(x: tirx.Expr) -> tirx.Expr:
    """Bits of the bfloat16 nearest to a float32, ties to even; NaN stays NaN."""
    bits = tirx.reinterpret("uint32", x)
    odd = tirx.bitwise_and(tirx.shift_right(bits, _u32(16)), _u32(1))
    rounded = tirx.shift_right(bits + odd + _u32(0x7FFF), _u32(16)).astype("uint16")
    return tirx.Select(x == x, rounded, tirx.IntImm("uint16", _QUIET_NAN))


def _u32(value: int) -> tirx.IntImm:
    return tirx.IntImm("uint32", value)


def bf16_bits(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """What ``te_round`` computes, in NumPy."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    with np.errstate(over="ignore"):
        rounded = ((bits + ((bits >> 16) & 1) + np.uint32(0x7FFF)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(_QUIET_NAN), rounded)


def bf16_values(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """float32 of the bits of bfloat16 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def pack_bf16(weight: NDArray[np.float32], nb: int) -> NDArray[np.uint16]:
    """float32 [N, K] to the bits of [ceil(N/nb), ceil(K/2), nb, 2], rounded, zero padded."""
    n, k = weight.shape
    groups = -(-k // GROUP)
    padded = np.zeros((-(-n // nb) * nb, groups * GROUP), np.uint16)
    padded[:n, :k] = bf16_bits(weight)
    return np.ascontiguousarray(padded.reshape(-1, nb, groups, GROUP).transpose(0, 2, 1, 3))
