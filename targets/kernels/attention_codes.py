"""Codes of 8 bits for the three operands of attention, made inside the kernel.

All tensors are per batch entry and head. A code is the value by its step, rounded to even; the step
is the largest magnitude by 127, so none needs a clamp, and operands that are all zero stay zero.
"""

from __future__ import annotations

from tvm import te, tirx

from targets.kernels.activation import stage
from targets.kernels.attention import clamped
from targets.kernels.linear_int8 import GROUP
from targets.kernels.primfunc import axis, dims, f32
from targets.kernels.quantize import SHIFT, SMALLEST_RANGE

LIMIT = 127.0
"""Largest code of queries, keys and values; the smallest is its negative."""

OFFSET = 128.0
"""Added to the codes of keys, which the dot product takes as unsigned."""

SIGNED_SHIFT = 1.5 * 2.0**23
"""Added to a value in +-2^22, it rounds it to a whole number in the lowest bits."""


def query_codes(qkv: te.Tensor, heads: int, dim: int, rows: int) -> tuple[te.Tensor, te.Tensor]:
    """(s8[batch, heads, ceil(dim/4), rows, 4], scale f32[batch, heads]); rows beyond repeat the last."""
    batch, seq = int(qkv.shape[0]), int(qkv.shape[1])
    a, e = axis(seq, "a"), axis(dim, "e")
    high = te.compute(
        dims(batch, heads, dim),
        lambda n, h, c: te.max(tirx.abs(qkv[n, a, h * dim + c]), axis=a),
        name="q_high",
    )
    top = te.compute(dims(batch, heads), lambda n, h: te.max(high[n, h, e], axis=e), name="q_top")
    step, inverse = steps("q", top)
    padded = -(-dim // GROUP) * GROUP

    def code(n: tirx.Var, h: tirx.Var, i: tirx.Var, c: tirx.Var) -> tirx.Expr:
        value = qkv[n, clamped(i, seq, rows), h * dim + c]
        value = value if padded == dim else tirx.if_then_else(c < dim, value, f32(0))
        return bits_of(value * inverse[n, h] + f32(SIGNED_SHIFT)).astype("int8")

    q_rows = te.compute(dims(batch, heads, rows, padded), code, name="q_rows")
    codes = te.compute(
        dims(batch, heads, padded // GROUP, rows, GROUP),
        lambda n, h, d, i, b: q_rows[n, h, i, d * GROUP + b],
        name="q_codes",
    )
    return codes, step


def key_codes(qkv: te.Tensor, heads: int, dim: int, keys: int) -> tuple[te.Tensor, te.Tensor]:
    """(u8[batch, heads, keys, 4 ceil(dim/4)], scale f32[batch, heads]) of keys less their mean, plus 128.

    Queries have zeros where channels are padded, so that what keys have there does not matter.
    """
    batch, seq = int(qkv.shape[0]), int(qkv.shape[1])
    width = heads * dim
    a, g, e = axis(seq, "a"), axis(seq, "g"), axis(dim, "e")
    wide = dims(batch, heads, dim)
    whole = te.compute(
        wide, lambda n, h, c: te.sum(qkv[n, a, width + h * dim + c], axis=a), name="k_whole"
    )
    mean = te.compute(wide, lambda n, h, c: whole[n, h, c] * f32(1 / seq), name="k_mean")
    high = te.compute(
        wide,
        lambda n, h, c: te.max(tirx.abs(qkv[n, g, width + h * dim + c] - mean[n, h, c]), axis=g),
        name="k_high",
    )
    top = te.compute(dims(batch, heads), lambda n, h: te.max(high[n, h, e], axis=e), name="k_top")
    step, inverse = steps("k", top)
    padded = -(-dim // GROUP) * GROUP

    def code(n: tirx.Var, h: tirx.Var, j: tirx.Var, c: tirx.Var) -> tirx.Expr:
        at = clamped(c, dim, padded)
        value = qkv[n, clamped(j, seq, keys), width + h * dim + at] - mean[n, h, at]
        return bits_of(value * inverse[n, h] + f32(SHIFT + OFFSET)).astype("uint8")

    return te.compute(dims(batch, heads, keys, padded), code, name="k_codes"), step


def value_words(qkv: te.Tensor, heads: int, dim: int, keys: int) -> tuple[te.Tensor, te.Tensor]:
    """(i32[batch, heads, keys/4, dim], scale f32[batch, heads, dim]): codes of 4 keys in each word."""
    batch, seq = int(qkv.shape[0]), int(qkv.shape[1])
    width = heads * dim
    a = axis(seq, "a")
    high = te.compute(
        dims(batch, heads, dim),
        lambda n, h, c: te.max(tirx.abs(qkv[n, a, 2 * width + h * dim + c]), axis=a),
        name="v_high",
    )
    step, inverse = steps("v", high)

    def code(n: tirx.Var, h: tirx.Var, j: tirx.Var, c: tirx.Var) -> tirx.Expr:
        value = qkv[n, clamped(j, seq, keys), 2 * width + h * dim + c]
        return bits_of(value * inverse[n, h, c] + f32(SIGNED_SHIFT))

    codes = te.compute(dims(batch, heads, keys, dim), code, name="v_codes")
    return packed(codes, "v_words"), step


def steps(name: str, top: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """(size of a step, its inverse) of codes in +-127 for magnitudes up to ``top``."""
    limited = stage(f"{name}_span", top, lambda v: tirx.max(v, f32(SMALLEST_RANGE)))
    inverse = stage(f"{name}_inverse", limited, lambda v: f32(LIMIT) / v)
    return stage(f"{name}_scale", limited, lambda v: v * f32(1 / LIMIT)), inverse


def packed(codes: te.Tensor, name: str) -> te.Tensor:
    """i32[batch, heads, keys/4, n] of i32[batch, heads, keys, n]: the low bytes of four keys, in order."""
    batch, heads, keys, n = codes.shape

    def word(*index: tirx.Var) -> tirx.Expr:
        *outer, t, c = index
        first, *others = (codes[(*outer, t * GROUP + b, c)] for b in range(GROUP))
        value = first & 0xFF
        for b, other in enumerate(others, 1):
            byte = other if b == GROUP - 1 else other & 0xFF
            value = value | (byte << (8 * b))
        return value

    return te.compute((batch, heads, keys // GROUP, n), word, name=name)


def bits_of(value: tirx.Expr) -> tirx.Expr:
    """The bits of a float32 as int32."""
    return tirx.reinterpret("int32", value)
