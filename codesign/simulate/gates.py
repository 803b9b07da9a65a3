"""Gates: one compiled program runs a layer on its input as it is, or as any kernel would see it.

A gate is a small vector ``[bits, scale, 1 / scale, zero]``, the content of a `Seen`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from passes.formats import Seen
from targets.kernels.primfunc import dims, f32, prim_func

GATE = 4
"""Numbers in a gate."""


def gate_value(seen: Seen) -> NDArray[np.float32]:
    """The vector that switches a gate to ``seen``."""
    inverse = 1.0 / seen.scale if seen.scale else 0.0
    return np.array([seen.bits, seen.scale, inverse, seen.zero], np.float32)


def gated(
    x: te.Tensor, q: te.Tensor, scale: te.Tensor, zero: te.Tensor, gate: te.Tensor
) -> te.Tensor:
    """``x`` as a kernel sees it: exactly, in bfloat16, or as uint8 codes of each row or of a fixed scale.

    Args:
        x: the input.
        q, scale, zero: its rows quantised as they come.
        gate: says which.
    """

    def value(*i: tirx.Var) -> tirx.Expr:
        row = i[:-1]
        rows = (q[i].astype("int32") - zero[row]).astype("float32") * scale[row]
        code = tirx.nearbyint(x[i] * gate[2]) + gate[3]
        fixed = (tirx.max(tirx.min(code, f32(255)), f32(0)) - gate[3]) * gate[1]
        codes = tirx.Select(gate[1] > f32(0), fixed, rows)
        return tirx.Select(
            gate[0] > f32(16), x[i], tirx.Select(gate[0] > f32(8), bfloat16(x[i]), codes)
        )

    return te.compute(x.shape, value, name="gated")


def bfloat16(x: tirx.Expr) -> tirx.Expr:
    """A float32 rounded to the nearest bfloat16, ties to even, as a float32."""
    one, sixteen = tirx.IntImm("int32", 1), tirx.IntImm("int32", 16)
    bits = tirx.reinterpret("int32", x)
    odd = tirx.bitwise_and(tirx.shift_right(bits, sixteen), one)
    rounded = bits + (odd + tirx.IntImm("int32", 0x7FFF))
    return tirx.reinterpret("float32", tirx.bitwise_and(rounded, tirx.IntImm("int32", -(1 << 16))))


def chosen(shape: Sequence[int]) -> tirx.PrimFunc:
    """PrimFunc ``(exact, coarse, gate) -> exact`` where the gate leaves 32 bits, else ``coarse``."""
    exact, coarse = (te.placeholder(dims(*shape), "float32", name=n) for n in ("exact", "coarse"))
    gate = te.placeholder(dims(GATE), "float32", name="gate")
    on = gate[0] < f32(32)
    out = te.compute(exact.shape, lambda *i: tirx.Select(on, coarse[i], exact[i]), name="chosen")
    return prim_func([exact, coarse, gate, out])
