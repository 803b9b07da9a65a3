"""Dynamic quantisation of activations: uint8, one scale and zero point per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.linear_int8 import GROUP
from targets.kernels.primfunc import axis, dims, f32, family, prim_func

FAMILY_NAME = "quantize"

SMALLEST_RANGE = 1e-30
"""A row whose values span less counts as spanning this: zero rows stay exact, nothing overflows."""


STEPS = 254.0
"""Steps between the smallest and the largest value of a row. One less than 255, so that no rounding
of the zero point can take a code out of 0..255, and none needs a clamp."""

ROOM = 0.75
"""Codes of the smallest value lie in -0.25..0.75 before rounding, those of the largest below 254.75."""

SHIFT = 2.0**23
"""Added to a value below 2^23, it rounds it to a whole number (to even) in the lowest bits."""


def quantize_rows(lead: Sequence[int], k: int) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[*lead, k]) -> (q u8[*lead, 4 ceil(k/4)], scale f32[*lead], zero i32[*lead])``.

    x is about ``(q - zero) * scale`` with ``scale = (max(x, 0) - min(x, 0)) / 254`` over the row.
    """
    width = -(-k // GROUP) * GROUP
    x = te.placeholder(dims(*lead, k), "float32", name="x")
    a, b = axis(k, "a"), axis(k, "b")
    low = te.compute(dims(*lead), lambda *i: te.min(x[(*i, a)], axis=a), name="low")
    high = te.compute(
        dims(*lead), lambda *i: te.max(x[(*i, b)], axis=b), name="high", attrs=family(FAMILY_NAME)
    )
    span = te.compute(
        dims(*lead),
        lambda *i: tirx.max(
            tirx.max(high[i], f32(0)) - tirx.min(low[i], f32(0)), f32(SMALLEST_RANGE)
        ),
        name="span",
    )
    inverse = te.compute(dims(*lead), lambda *i: f32(STEPS) / span[i], name="inverse")
    offset = te.compute(
        dims(*lead),
        lambda *i: tirx.floor(f32(ROOM) - tirx.min(low[i], f32(0)) * inverse[i]),
        name="offset",
    )
    scale = te.compute(dims(*lead), lambda *i: span[i] * f32(1 / STEPS), name="scale")
    zero = te.compute(dims(*lead), lambda *i: offset[i].astype("int32"), name="zero")

    def code(*index: tirx.Var) -> tirx.Expr:
        i, j = index[:-1], index[-1]
        value = x[index] if width == k else tirx.if_then_else(j < k, x[index], f32(0))
        shifted = value * inverse[i] + (offset[i] + f32(SHIFT))
        return tirx.reinterpret("int32", shifted).astype("uint8")

    q = te.compute(dims(*lead, width), code, name="q")
    return prim_func([x, q, scale, zero])


class Quantized(NamedTuple):
    """Rows as ``quantize_rows`` makes them: uint8 codes, float32 scales, int32 zero points."""

    q: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero: NDArray[np.int32]

    def dequantized(self) -> NDArray[np.float32]:
        """float32 ``(q - zero) * scale``."""
        steps = self.q.astype(np.int32) - self.zero[..., None]
        return (steps * self.scale[..., None]).astype(np.float32)


def quantize_reference(x: NDArray[np.float32]) -> Quantized:
    """What the kernel computes, in NumPy, without the padding to groups of four.

    float64 stands for the fused multiply-add of the processor; without one (SSE), codes of values
    halfway between two may differ by one.
    """
    low = np.minimum(x.min(axis=-1), 0).astype(np.float32)
    high = np.maximum(x.max(axis=-1), 0).astype(np.float32)
    span = np.maximum(high - low, np.float32(SMALLEST_RANGE))
    inverse = (np.float32(STEPS) / span).astype(np.float64)
    offset = np.floor((ROOM - low * inverse).astype(np.float32)).astype(np.float64)
    q = np.rint(x * inverse[..., None] + offset[..., None]).astype(np.uint8)
    return Quantized(q, span * np.float32(1 / STEPS), offset.astype(np.int32))
