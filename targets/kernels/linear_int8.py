"""Dense int8 linear layers: uint8 activations, int8 weights per output channel.

Activations are quantised per token as they come (*dynamic*), or by scales and zero points that calibration
fixed (*static*). Then the whole correction is known before: one vector of int32, one of float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.linear import accumulated, accumulator_shape, input_index
from targets.kernels.primfunc import axis, dims, family, prim_func

FAMILY_NAME = "linear_int8"

GROUP = 4
"""Inputs that one int8 dot-product instruction consumes."""


def dense_int8(lead: Sequence[int], k: int, n: int, nb: int) -> tirx.PrimFunc:
    """PrimFunc ``y = (q w^T - zero * wsum) * scale * wscale`` in exact int32 arithmetic.

    With g = ceil(k/4): ``(q u8[*lead, 4g], scale f32[*lead], zero i32[*lead],
    w s8[ceil(n/nb), g, nb, 4], wscale f32[n], wsum i32[n]) -> y f32[*lead, n]``
    """
    q, w, acc = _product(lead, k, n, nb)
    scale, zero, wscale, wsum, y = dequantized(acc, lead, n)
    return prim_func([q, scale, zero, w, wscale, wsum, y])


def static_int8(lead: Sequence[int], k: int, n: int, nb: int) -> tirx.PrimFunc:
    """PrimFunc ``y = (q w^T - shift) * scale`` in exact int32 arithmetic.

    With g = ceil(k/4): ``(q u8[*lead, 4g], w s8[ceil(n/nb), g, nb, 4], scale f32[n], shift i32[n])
    -> y f32[*lead, n]``; shift is what ``static_shift`` makes, the scales of inputs are in the weights.
    """
    q, w, acc = _product(lead, k, n, nb)
    scale, shift, y = dequantized_static(acc, lead, n)
    return prim_func([q, w, scale, shift, y])


def _product(
    lead: Sequence[int], k: int, n: int, nb: int
) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """(q, w, accumulators)."""
    groups = -(-k // GROUP)
    q = te.placeholder(dims(*lead, groups * GROUP), "uint8", name="q")
    w = te.placeholder(dims(-(-n // nb), groups, nb, GROUP), "int8", name="w")
    g, i = axis(groups, "g"), axis(GROUP, "i")
    acc = te.compute(
        accumulator_shape(lead, n, nb),
        lambda *at: te.sum(
            q[(*input_index(lead, at[:-2]), g * GROUP + i)].astype("int32")
            * w[at[-2], g, at[-1], i].astype("int32"),
            axis=[g, i],
        ),
        name="linear",
        attrs=family(FAMILY_NAME),
    )
    return q, w, acc


def dequantized(
    acc: te.Tensor, lead: Sequence[int], n: int
) -> tuple[te.Tensor, te.Tensor, te.Tensor, te.Tensor, te.Tensor]:
    """(scale, zero, wscale, wsum, y): the inputs of dequantisation and its result f32[*lead, n]."""
    scale = te.placeholder(dims(*lead), "float32", name="scale")
    zero = te.placeholder(dims(*lead), "int32", name="zero")
    wscale = te.placeholder(dims(n), "float32", name="wscale")
    wsum = te.placeholder(dims(n), "int32", name="wsum")

    def value(*index: tirx.Var) -> tirx.Expr:
        row, j = index[:-1], index[-1]
        total = accumulated(acc, lead, index) - zero[row] * wsum[j]
        return total.astype("float32") * (scale[row] * wscale[j])

    return scale, zero, wscale, wsum, te.compute(dims(*lead, n), value, name="y")


def dequantized_static(
    acc: te.Tensor, lead: Sequence[int], n: int
) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """(scale f32[n], shift i32[n], y f32[*lead, n]): dequantisation by constants of the layer."""
    scale = te.placeholder(dims(n), "float32", name="scale")
    shift = te.placeholder(dims(n), "int32", name="shift")

    def value(*index: tirx.Var) -> tirx.Expr:
        total = accumulated(acc, lead, index) - shift[index[-1]]
        return total.astype("float32") * scale[index[-1]]

    return scale, shift, te.compute(dims(*lead, n), value, name="y")


def static_shift(codes: NDArray[np.int8], zero: NDArray[np.int32]) -> NDArray[np.int32]:
    """int32 [n]: what zero points [k] of the inputs add to the sums of a weight's codes [n, k]."""
    return (codes.astype(np.int64) @ zero.astype(np.int64)).astype(np.int32)


def pack_int8(q: NDArray[np.int8], nb: int) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """int8 [N, K] to (int8 [ceil(N/nb), ceil(K/4), nb, 4] zero padded, int32 row sums [N])."""
    n, k = q.shape
    groups = -(-k // GROUP)
    padded = np.zeros((-(-n // nb) * nb, groups * GROUP), np.int8)
    padded[:n, :k] = q
    packed = padded.reshape(-1, nb, groups, GROUP).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(packed), q.sum(axis=1, dtype=np.int32)
