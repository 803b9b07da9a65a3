"""Self-attention whose two matrix products run on codes of 8 bits, quantised inside the kernel.

Everything is per batch entry and head. Queries and keys have one scale each, values one scale a
channel, probabilities 255 steps below the largest of their row. The mean key is taken off all keys
first, which the softmax does not see and which holds most of what outliers keys have (SageAttention,
Zhang et al. 2024, arXiv:2410.02367). Keys carry an offset of 128 that no one takes off either: it
adds the same to all scores of a query.

Scores are held transposed, keys outside and queries inside, so that nothing is ever reduced within a
vector and four probabilities become one 32-bit word by shifts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.activation import MANTISSA, ONE, UNIT
from targets.kernels.attention import ROW_SLACK
from targets.kernels.attention_codes import LIMIT, OFFSET, key_codes, query_codes, value_words
from targets.kernels.intrin_words import dot_words
from targets.kernels.linear_int8 import GROUP
from targets.kernels.primfunc import axis, dims, f32, family, prim_func
from targets.kernels.quantize import SMALLEST_RANGE
from targets.kernels.softmax_int8 import (
    CURVE,
    FAR,
    LOWEST_BIAS,
    probabilities,
    scores,
)

FAMILY_NAME = "attention_int8"

KEY_MULTIPLE = 8
"""Keys are padded to whole tiles of this many; surplus ones get the probability 0."""


def attention_int8(
    batch: int,
    seq: int,
    heads: int,
    dim: int,
    bias_shape: Sequence[int] | None,
    scale: float,
) -> tirx.PrimFunc:
    """PrimFunc ``softmax(scale * q k^T + bias) v`` per head; see ``attention`` for the layout.

    ``(qkv f32[batch, seq, 3*heads*dim](, bias f32[batch|1, heads|1, seq|1, seq]))
    -> o f32[batch, seq, heads*dim]``
    """
    width = heads * dim
    keys = -(-seq // KEY_MULTIPLE) * KEY_MULTIPLE
    rows = seq + ROW_SLACK
    qkv = te.placeholder(dims(batch, seq, 3 * width), "float32", name="qkv")
    bias = te.placeholder(dims(*bias_shape), "float32", name="bias") if bias_shape else None

    q_codes, q_scale = query_codes(qkv, heads, dim, rows)
    k_codes, k_scale = key_codes(qkv, heads, dim, keys)
    v_words, v_scale = value_words(qkv, heads, dim, keys)
    d, b = axis(-(-dim // GROUP), "d"), axis(GROUP, "b")
    product = te.compute(
        dims(batch, heads, keys, rows),
        lambda n, h, j, i: te.sum(
            k_codes[n, h, j, d * GROUP + b].astype("int32")
            * q_codes[n, h, d, i, b].astype("int32"),
            axis=[d, b],
        ),
        name="product",
    )
    gain = te.compute(
        dims(batch, heads),
        lambda n, h: q_scale[n, h] * k_scale[n, h] * f32(scale * UNIT),
        name="gain",
    )
    score = scores(product, gain, bias, seq)
    words, total = probabilities(score)
    t = axis(keys // GROUP, "t")
    mixed = te.compute(
        dims(batch, heads, rows, dim),
        lambda n, h, i, c: te.sum(dot_words(words[n, h, t, i], v_words[n, h, t, c]), axis=t),
        name="mixed",
        attrs=family(FAMILY_NAME),
    )
    inverse = te.compute(
        dims(batch, heads, rows),
        lambda n, h, i: f32(1) / total[n, h, i].astype("float32"),
        name="inverse",
    )
    out = te.compute(
        dims(batch, seq, width),
        lambda n, i, c: (
            mixed[n, c // dim, i, c % dim].astype("float32")
            * v_scale[n, c // dim, c % dim]
            * inverse[n, c // dim, i]
        ),
        name="o",
    )
    return prim_func([qkv, *([bias] if bias is not None else []), out])


def attention_int8_reference(
    qkv: NDArray[np.float32], bias: NDArray[np.float32] | None, heads: int, scale: float
) -> NDArray[np.float32]:
    """What the kernel computes, in NumPy: f32[batch, seq, heads*dim].

    float64 stands for the fused multiply-add of the processor and for its order of sums, so codes of
    values halfway between two may differ by one.
    """
    batch, seq, width = qkv.shape
    q, k, v = qkv.reshape(batch, seq, 3, heads, width // 3 // heads).transpose(2, 0, 3, 1, 4)
    q_codes, q_step = _reference_codes(q, (-1, -2))
    whole = k.astype(np.float64).sum(-2, keepdims=True).astype(np.float32)
    k_codes, k_step = _reference_codes(k - whole * np.float32(1 / seq), (-1, -2))
    v_codes, v_step = _reference_codes(v, (-2,))
    product = q_codes @ (k_codes + OFFSET).swapaxes(-1, -2)
    score = product * (q_step * k_step * np.float32(scale * UNIT)).astype(np.float64)
    if bias is not None:
        shift = np.maximum(bias, np.float32(LOWEST_BIAS)) * np.float32(UNIT)
        score = score + shift.astype(np.float64)
    score = score.astype(np.float32)
    below = np.maximum(score - score.max(-1, keepdims=True), np.float32(FAR))
    power = below.astype(np.int32)
    mantissa = ((power & MANTISSA) | ONE).view(np.float32).astype(np.float64)
    curve = np.full(mantissa.shape, np.float32(CURVE[0]))
    for c in CURVE[1:]:
        curve = (curve * mantissa + np.float64(np.float32(c))).astype(np.float32)
    codes = np.rint((power + np.int32(ONE)).view(np.float32) * curve.astype(np.float64))
    inverse = np.float32(1) / codes.sum(-1, keepdims=True).astype(np.float32)
    mixed = (codes @ v_codes).astype(np.float32) * v_step * inverse
    return mixed.transpose(0, 2, 1, 3).reshape(batch, seq, width // 3)


def _reference_codes(
    x: NDArray[np.float32], axes: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """(codes, step) of ``x``, with one step over ``axes``."""
    span = np.maximum(np.abs(x).max(axes, keepdims=True), np.float32(SMALLEST_RANGE))
    inverse = (np.float32(LIMIT) / span).astype(np.float64)
    return np.rint(x * inverse), span * np.float32(1 / LIMIT)
