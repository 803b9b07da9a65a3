"""The softmax between the two products of attention in int8: sums of codes in, codes out.

Scores are transposed, ``[batch, heads, keys, rows]``, and come multiplied by ``UNIT``.
"""

from __future__ import annotations

from tvm import te, tirx

from targets.kernels.activation import ONE, UNIT, float_of, horner, mantissa_of, stage
from targets.kernels.attention import clamped
from targets.kernels.attention_codes import bits_of, packed
from targets.kernels.intrin_words import sum_word
from targets.kernels.linear_int8 import GROUP
from targets.kernels.primfunc import axis, dims, f32
from targets.kernels.quantize import SHIFT

LOWEST_BIAS = -1e30
"""A bias below counts as this, so that a mask of -3.4e38 stays finite times UNIT."""

MISSING = -3e38
"""Score of a key that does not exist: less than that of any that is masked."""

TOP = 255.0
"""Code of the most probable key."""

FAR = -12.0 * 2.0**23
"""Scores this far below the largest, and farther, have the code round(255 * 2^-12) = 0."""

CURVE = tuple(
    TOP * c
    for c in (-0.1064456878269702, 0.707475807816935, -1.377307608662013, 1.7756147545589676)
)
"""255 2^(m-1) / m for a mantissa 1 <= m < 2 to 7e-4 relative, highest power first: minimax, by linear
programming."""


def scores(product: te.Tensor, gain: te.Tensor, bias: te.Tensor | None, seq: int) -> te.Tensor:
    """f32[batch, heads, keys, rows] ``product * gain + bias * UNIT``; gain has that factor already."""
    _, _, keys, rows = (int(d) for d in product.shape)

    def biased(n: tirx.Var, h: tirx.Var, i: tirx.Expr, j: tirx.Expr) -> tirx.Expr:
        assert bias is not None
        at = zip((n, h, i, j), bias.shape, strict=True)
        value = bias[tuple(p if int(e) > 1 else 0 for p, e in at)]
        return tirx.max(value, f32(LOWEST_BIAS)) * f32(UNIT)

    def missing(value: tirx.Expr, j: tirx.Var) -> tirx.Expr:
        return value if keys == seq else tirx.if_then_else(j < seq, value, f32(MISSING))

    if bias is None or int(bias.shape[2]) > 1:  # nothing but the bound is the same for all queries

        def score(n: tirx.Var, h: tirx.Var, j: tirx.Var, i: tirx.Var) -> tirx.Expr:
            value = product[n, h, j, i].astype("float32") * gain[n, h]
            if bias is not None:
                value = value + biased(n, h, clamped(i, seq, rows), clamped(j, seq, keys))
            return missing(value, j)

        return te.compute(product.shape, score, name="score")
    shift = te.compute(
        product.shape[:3],
        lambda n, h, j: missing(biased(n, h, tirx.IntImm("int64", 0), clamped(j, seq, keys)), j),
        name="shift",
    )
    return te.compute(
        product.shape,
        lambda n, h, j, i: product[n, h, j, i].astype("float32") * gain[n, h] + shift[n, h, j],
        name="score",
    )


def probabilities(score: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """(i32[batch, heads, keys/4, rows]: codes of 4 keys in each word, i32[batch, heads, rows]: their sum)."""
    batch, heads, keys, rows = (int(d) for d in score.shape)
    a, t = axis(keys, "a"), axis(keys // GROUP, "t")
    peak = te.compute(
        dims(batch, heads, rows), lambda n, h, i: te.max(score[n, h, a, i], axis=a), name="peak"
    )
    below = te.compute(
        score.shape,
        lambda n, h, j, i: tirx.max(score[n, h, j, i] - peak[n, h, i], f32(FAR)),
        name="below",
    )
    power = stage("power", below, lambda v: v.astype("int32"))
    mantissa = stage("mantissa", power, mantissa_of)
    codes = stage(
        "codes",
        mantissa,
        lambda m, p: bits_of(float_of(p + ONE) * horner(CURVE, m) + f32(SHIFT)),
        power,
    )
    words = packed(codes, "words")
    total = te.compute(
        dims(batch, heads, rows),
        lambda n, h, i: te.sum(sum_word(words[n, h, t, i]), axis=t),
        name="total",
    )
    return words, total
