"""Balanced vector-sparse int8 linear layers: inputs are kept or removed in groups of four."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.linear import accumulator_shape, input_index
from targets.kernels.linear_int8 import GROUP, dequantized, dequantized_static, pack_int8
from targets.kernels.linear_sparse import kept_index
from targets.kernels.primfunc import axis, dims, family, prim_func

FAMILY_NAME = "linear_sparse_int8"


def sparse_int8(lead: Sequence[int], k: int, n: int, nb: int, kept4: int) -> tirx.PrimFunc:
    """PrimFunc of an int8 linear layer that reads ``kept4`` groups of 4 inputs per output block.

    With g = ceil(k/4): ``(q u8[*lead, 4g], scale f32[*lead], zero i32[*lead],
    values s8[ceil(n/nb), kept4, nb, 4], index i32[ceil(n/nb), kept4], wscale f32[n], wsum i32[n])
    -> y f32[*lead, n]``; ``index`` counts groups.
    """
    q, values, index, acc = _product(lead, k, n, nb, kept4)
    scale, zero, wscale, wsum, y = dequantized(acc, lead, n)
    return prim_func([q, scale, zero, values, index, wscale, wsum, y])


def static_sparse_int8(lead: Sequence[int], k: int, n: int, nb: int, kept4: int) -> tirx.PrimFunc:
    """``sparse_int8`` on activations with one scale and zero point that calibration fixed.

    ``(q u8[*lead, 4g], values s8[ceil(n/nb), kept4, nb, 4], index i32[ceil(n/nb), kept4],
    scale f32[n], shift i32[n]) -> y f32[*lead, n]``, as in `static_int8`.
    """
    q, values, index, acc = _product(lead, k, n, nb, kept4)
    scale, shift, y = dequantized_static(acc, lead, n)
    return prim_func([q, values, index, scale, shift, y])


def _product(
    lead: Sequence[int], k: int, n: int, nb: int, kept4: int
) -> tuple[te.Tensor, te.Tensor, te.Tensor, te.Tensor]:
    """(q, values, index, accumulators)."""
    blocks = -(-n // nb)
    q = te.placeholder(dims(*lead, -(-k // GROUP) * GROUP), "uint8", name="q")
    values = te.placeholder(dims(blocks, kept4, nb, GROUP), "int8", name="values")
    index = te.placeholder(dims(blocks, kept4), "int32", name="index")
    g, i = axis(kept4, "g"), axis(GROUP, "i")
    acc = te.compute(
        accumulator_shape(lead, n, nb),
        lambda *at: te.sum(
            q[(*input_index(lead, at[:-2]), index[at[-2], g].astype("int64") * GROUP + i)].astype(
                "int32"
            )
            * values[at[-2], g, at[-1], i].astype("int32"),
            axis=[g, i],
        ),
        name="linear",
        attrs=family(FAMILY_NAME),
    )
    return q, values, index, acc


def pack_sparse_int8(
    q: NDArray[np.int8], mask: NDArray[np.bool_], nb: int
) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.int32]]:
    """(values, index, wsum) of an int8 [N, K] weight, zero outside bool [ceil(N/nb), ceil(K/4)].

    values: int8 [ceil(N/nb), kept, nb, 4]; index: int32 [ceil(N/nb), kept], in groups of 4 inputs;
    wsum: int32 [N], the row sums.
    """
    index = kept_index(mask)
    packed, wsum = pack_int8(q, nb)
    values = np.take_along_axis(packed, index[:, :, None, None].astype(np.int64), axis=1)
    return np.ascontiguousarray(values), index, wsum
