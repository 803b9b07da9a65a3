"""Static quantisation of activations: uint8 by a scale and a zero point that calibration fixed.

An elementwise computation, so that fusion makes it a part of the kernel that produces the numbers:
they never reach memory as float32. Scale and zero point are inputs, so that layers share kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.linear_int8 import GROUP
from targets.kernels.primfunc import dims, f32, prim_func

_OPAQUE = 8  # relax's OpPatternKind
_LAST_CODE = 255.0

SHIFT = 1.5 * 2.0**23
"""Added to a value between -2^22 and 2^22, it rounds it to a whole number (to even) in the lowest bits.
Half as costly on x86 as the instruction that rounds; what lies between keeps a fused multiply-add from
rounding in another way."""


def quantize_static(shape: Sequence[int]) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[*shape], inverse f32[1], zero f32[1]) -> q u8[*shape]``.

    ``q = clip(round(x * inverse) + zero, 0, 255)``, ties to even; see ``quantizer``. Relax sees an
    elementwise function in it, which it would not with scale and zero point in one vector.
    """
    x = te.placeholder(dims(*shape), "float32", name="x")
    inverse, zero = (te.placeholder(dims(1), "float32", name=n) for n in ("inverse", "zero"))

    def code(*index: tirx.Var) -> tirx.Expr:
        scaled = x[index] * inverse[0]
        inside = tirx.max(tirx.min(scaled, f32(_LAST_CODE) - zero[0]), -zero[0])
        return tirx.reinterpret("int32", (inside + f32(SHIFT)) + zero[0]).astype("uint8")

    q = te.compute(dims(*shape), code, name="quantized")
    return prim_func([x, inverse, zero, q]).without_attr("op_pattern")


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


def quantizer(scale: float, zero: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``1 / scale`` and ``zero``, each float32 [1]: the inputs of the kernel behind x."""
    return np.array([1.0 / scale], np.float32), np.array([zero], np.float32)


def quantize_static_reference(x: NDArray[np.float32], scale: float, zero: int) -> NDArray[np.uint8]:
    """What the kernel computes, in NumPy, bit for bit."""
    inverse, offset = quantizer(scale, zero)
    with np.errstate(over="ignore"):  # beyond the last code is beyond the last code
        codes = np.rint(np.asarray(x, np.float32) * inverse) + offset
    return np.clip(codes, 0, _LAST_CODE).astype(np.uint8)
