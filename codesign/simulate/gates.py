"""Gates: one compiled program runs a layer on its input as it is, or as any kernel would see it.

A gate is a small matrix, the content of a `Seen`: for each channel bits, scale (of 16 bits those of the
exponent), and what a quantiser reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from passes.formats import Seen
from passes.norm import Frozen
from passes.sites import Linear, Norm, Part
from targets.kernels.primfunc import dims, f32, prim_func
from targets.kernels.quantize import SHIFT
from targets.kernels.quantize_static import code, quantizer

GATE = 4
"""Rows of a gate."""


def gate_shape(site: Part | Norm) -> tuple[int, int]:
    """Of the gate of a site: a column for each channel of its input."""
    if isinstance(site, Norm):
        return (GATE, site.channels)
    return (GATE, site.in_features // site.taps if isinstance(site, Linear) else 1)


def gate_value(seen: Seen | Frozen, shape: tuple[int, int]) -> NDArray[np.float32]:
    """What switches a gate to ``seen``."""
    gate = np.zeros(shape, np.float32)
    if isinstance(seen, Frozen):
        gate[1], gate[2] = seen.scale, seen.shift
        return gate
    gate[0] = seen.bits
    if seen.bits == 16:
        gate[1] = seen.exponent
    if seen.static:
        gate[1] = seen.scale
        gate[2:] = quantizer(seen.scale, seen.zero)
    return gate


def gated(
    x: te.Tensor, q: te.Tensor, scale: te.Tensor, zero: te.Tensor, gate: te.Tensor
) -> te.Tensor:
    """``x`` as a kernel sees it: exactly, in 16 bits, or as uint8 codes of each row or static ones.

    Args:
        x: the input.
        q, scale, zero: its rows quantised as they come.
        gate: says which.
    """

    def value(*i: tirx.Var) -> tirx.Expr:
        row, channel = i[:-1], i[-1]
        rows = (q[i].astype("int32") - zero[row]).astype("float32") * scale[row]
        fixed = code(x[i], gate[2, channel], gate[3, channel]).astype("float32")
        steps = fixed - (gate[3, channel] - f32(SHIFT))
        codes = tirx.Select(gate[1, channel] > f32(0), steps * gate[1, channel], rows)
        short = tirx.Select(gate[1, channel] > f32(5), bfloat16(x[i]), float16(x[i]))
        rounded = tirx.Select(gate[0, channel] > f32(8), short, codes)
        return tirx.Select(gate[0, channel] > f32(16), x[i], rounded)

    return te.compute(x.shape, value, name="gated")


def bfloat16(x: tirx.Expr) -> tirx.Expr:
    """A float32 rounded to the nearest bfloat16, ties to even, as a float32."""
    return shortened(x, 16)


def float16(x: tirx.Expr) -> tirx.Expr:
    """A float32 rounded to the nearest float16, ties to even, as a float32: infinite from 65520 on.

    In arithmetic that every processor has. Below 2^-14, the smallest normal float16, all numbers are
    steps of 2^-24 apart, as are float32 from 1/2 to 1: their bits count the steps. (Taking off in float32
    what was added would be optimised away.)
    """
    size = tirx.abs(x)
    normal = tirx.Select(size < f32(65520), shortened(x, 13), x * f32(math.inf))
    half = tirx.IntImm("int32", 0x3F000000)
    steps = (tirx.reinterpret("int32", size + f32(0.5)) - half).astype("float32") * f32(2**-24)
    small = tirx.Select(x < f32(0), -steps, steps)
    return tirx.Select(size < f32(2**-14), small, normal)


def shortened(x: tirx.Expr, bits: int) -> tirx.Expr:
    """A float32 rounded to so many bits less of its significand, ties to even."""
    one, count = tirx.IntImm("int32", 1), tirx.IntImm("int32", bits)
    whole = tirx.reinterpret("int32", x)
    odd = tirx.bitwise_and(tirx.shift_right(whole, count), one)
    rounded = whole + (odd + tirx.IntImm("int32", (1 << bits - 1) - 1))
    return tirx.reinterpret(
        "float32", tirx.bitwise_and(rounded, tirx.IntImm("int32", -(1 << bits)))
    )


def frozen(shape: Sequence[int]) -> tirx.PrimFunc:
    """PrimFunc ``(exact, x, gate) -> exact`` where the gate leaves 32 bits, else ``x * scale + shift``."""
    exact, x = (te.placeholder(dims(*shape), "float32", name=n) for n in ("exact", "x"))
    gate = te.placeholder(dims(GATE, shape[-1]), "float32", name="gate")

    def value(*i: tirx.Var) -> tirx.Expr:
        c = i[-1]
        return tirx.Select(gate[0, c] < f32(32), x[i] * gate[1, c] + gate[2, c], exact[i])

    return prim_func([exact, x, gate, te.compute(exact.shape, value, name="frozen")])


def chosen(shape: Sequence[int], seen: Seen) -> tirx.PrimFunc:
    """PrimFunc ``(exact, coarse, gate) -> coarse`` where the gate has the bits of ``seen``, else ``exact``."""
    exact, coarse = (te.placeholder(dims(*shape), "float32", name=n) for n in ("exact", "coarse"))
    gate = te.placeholder(dims(GATE, 1), "float32", name="gate")
    on = tirx.abs(gate[0, 0] - f32(seen.bits)) < f32(1)
    out = te.compute(exact.shape, lambda *i: tirx.Select(on, coarse[i], exact[i]), name="chosen")
    return prim_func([exact, coarse, gate, out])
