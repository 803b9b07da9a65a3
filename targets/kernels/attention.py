"""Self-attention from the combined QKV projection to the merged heads, as one kernel."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from targets.kernels.activation import te_exp, te_short_exp
from targets.kernels.primfunc import axis, dims, f32, family, prim_func

FAMILY_NAME = "attention"

KEY_MULTIPLE = 16
"""Keys are padded to whole vectors; what is computed for the surplus ones is masked."""

ROW_SLACK = 63
"""Query rows beyond the real ones, so that tiles may overhang; they repeat the last real one."""

MASKED = float("-inf")
"""Score of a key that does not exist: less than that of any that is masked, however low its bias."""


def attention(
    batch: int,
    seq: int,
    heads: int,
    dim: int,
    bias_shape: Sequence[int] | None,
    scale: float,
    *,
    short: bool = False,
    slack: int = ROW_SLACK,
) -> tirx.PrimFunc:
    """PrimFunc ``softmax(scale * q k^T + bias) v`` per head; ``short`` takes the coarser exponential.

    ``slack`` is the number of surplus query rows.

    ``(qkv f32[batch, seq, 3*heads*dim](, bias f32[batch|1, heads|1, seq|1, seq]))
    -> o f32[batch, seq, heads*dim]``; qkv holds all q, then all k, then all v, each head-major.
    """
    width = heads * dim
    padded = -(-seq // KEY_MULTIPLE) * KEY_MULTIPLE
    rows = seq if seq == 1 else seq + slack
    qkv = te.placeholder(dims(batch, seq, 3 * width), "float32", name="qkv")
    bias = te.placeholder(dims(*bias_shape), "float32", name="bias") if bias_shape else None
    d, a, b, t = axis(dim, "d"), axis(padded, "a"), axis(padded, "b"), axis(seq, "t")
    scores_shape, rows_shape = dims(batch, heads, rows, padded), dims(batch, heads, rows)

    keys = te.compute(
        dims(batch, heads, dim, padded),
        lambda n, h, c, j: qkv[n, clamped(j, seq, padded), width + h * dim + c],
        name="keys",
    )
    values = te.compute(
        dims(batch, heads, seq, dim),
        lambda n, h, j, c: qkv[n, j, 2 * width + h * dim + c],
        name="values",
    )
    product = te.compute(
        scores_shape,
        lambda n, h, i, j: te.sum(
            qkv[n, clamped(i, seq, rows), h * dim + d] * keys[n, h, d, j], axis=d
        ),
        name="product",
    )

    def masked(n: tirx.Var, h: tirx.Var, i: tirx.Var, j: tirx.Var) -> tirx.Expr:
        value = product[n, h, i, j] * f32(scale)
        if bias is not None:
            at = (n, h, clamped(i, seq, rows), clamped(j, seq, padded))
            value = (
                value
                + bias[tuple(p if int(e) > 1 else 0 for p, e in zip(at, bias.shape, strict=True))]
            )
        return value if padded == seq else tirx.if_then_else(j < seq, value, f32(MASKED))

    score = te.compute(scores_shape, masked, name="score")
    peak = te.compute(rows_shape, lambda n, h, i: te.max(score[n, h, i, a], axis=a), name="peak")
    below = te.compute(
        scores_shape, lambda n, h, i, j: score[n, h, i, j] - peak[n, h, i], name="below"
    )
    e = te_short_exp(below) if short else te_exp(below, positive=False)
    total = te.compute(rows_shape, lambda n, h, i: te.sum(e[n, h, i, b], axis=b), name="total")
    mixed = te.compute(
        dims(batch, heads, rows, dim),
        lambda n, h, i, c: te.sum(e[n, h, i, t] * values[n, h, t, c], axis=t),
        name="mixed",
        attrs=family(FAMILY_NAME),
    )
    inverse = te.compute(rows_shape, lambda n, h, i: f32(1) / total[n, h, i], name="inverse")
    out = te.compute(
        dims(batch, seq, width),
        lambda n, i, c: mixed[n, c // dim, i, c % dim] * inverse[n, c // dim, i],
        name="o",
    )
    return prim_func([qkv, *([bias] if bias is not None else []), out])


def clamped(position: tirx.Expr, seq: int, extent: int) -> tirx.Expr:
    """A position below ``extent``, limited to the sequence where ``extent`` goes beyond it."""
    return position if extent == seq else tirx.min(position, tirx.IntImm("int64", seq - 1))


def attention_short(
    batch: int, seq: int, heads: int, dim: int, bias_shape: Sequence[int] | None, scale: float
) -> tirx.PrimFunc:
    """`attention` with the coarser exponential: every weight of a value within 1.1 % of what it was."""
    return attention(batch, seq, heads, dim, bias_shape, scale, short=True)


def attention_gpu(
    batch: int, seq: int, heads: int, dim: int, bias_shape: Sequence[int] | None, scale: float
) -> tirx.PrimFunc:
    """`attention` with whole tiles of 4 query rows and no more: on a GPU all surplus ones are computed."""
    return attention(batch, seq, heads, dim, bias_shape, scale, slack=-seq % 4)
