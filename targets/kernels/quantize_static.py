"""Static quantisation of activations: uint8 by scales and zero points that calibration fixed.

An elementwise computation, so that fusion makes it a part of the kernel that produces the numbers:
they never reach memory as float32. Scales and zero points are inputs, so that layers share kernels,
and each channel has its own: what divides a channel here multiplies its weights, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tvm import te, tirx

from targets.kernels.linear_int8 import GROUP
from targets.kernels.primfunc import dims, f32, prim_func
from targets.kernels.quantize import SHIFT

_OPAQUE = 8  # relax's OpPatternKind

LAST_CODE = 255


def quantize_static(shape: Sequence[int]) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[*lead, k], inverse f32[k], offset f32[k]) -> q u8[*lead, k]``.

    ``q = clip(round(x * inverse + zero), 0, 255)``; inverse and offset are what ``quantizer`` makes.
    """
    x = te.placeholder(dims(*shape), "float32", name="x")
    inverse, offset = (
        te.placeholder(dims(shape[-1]), "float32", name=n) for n in ("inverse", "offset")
    )

    def value(*index: tirx.Var) -> tirx.Expr:
        return code(x[index], inverse[index[-1]], offset[index[-1]])

    q = te.compute(dims(*shape), value, name="quantized")
    # without a pattern, relax looks and sees an elementwise function
    return prim_func([x, inverse, offset, q]).without_attr("op_pattern")


def code(x: tirx.Expr, inverse: tirx.Expr, offset: tirx.Expr) -> tirx.Expr:
    """uint8 ``clip(round(x * inverse + zero), 0, 255)``, ties to even, for an offset of SHIFT + zero.

    The sum leaves the code in the lowest bits: an addition instead of a conversion and a rounding.
    """
    shifted = x * inverse + offset
    inside = tirx.max(tirx.min(shifted, f32(SHIFT + LAST_CODE)), f32(SHIFT))
    return tirx.reinterpret("int32", inside).astype("uint8")


def quantizer(scale: ArrayLike, zero: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(inverse, offset), float32 [k]: what the kernel reads besides x.

    Args:
        scale: [k], what one step stands for.
        zero: [k], the code of zero, in 0..255.
    """
    inverse = 1.0 / np.asarray(scale, np.float64)
    return inverse.astype(np.float32), (np.asarray(zero) + SHIFT).astype(np.float32)


def pad_groups(shape: Sequence[int]) -> tirx.PrimFunc:
    """PrimFunc ``q u8[*lead, k] -> u8[*lead, 4 ceil(k/4)]``: whole groups, for widths that have none.

    The surplus codes meet weights of zero.
    """
    *lead, k = shape
    q = te.placeholder(dims(*shape), "uint8", name="q")
    padded = te.compute(
        dims(*lead, -(-k // GROUP) * GROUP),
        lambda *i: tirx.if_then_else(i[-1] < k, q[i], tirx.IntImm("uint8", 0)),
        name="padded",
    )
    return prim_func([q, padded]).with_attr("op_pattern", _OPAQUE)


def quantize_static_reference(
    x: NDArray[np.float32], scale: ArrayLike, zero: ArrayLike
) -> NDArray[np.uint8]:
    """What the kernel computes, in NumPy; float64 stands for the fused multiply-add."""
    inverse, offset = (v.astype(np.float64) for v in quantizer(scale, zero))
    codes = np.rint(np.asarray(x, np.float64) * inverse + (offset - SHIFT))
    return np.clip(codes, 0, LAST_CODE).astype(np.uint8)
