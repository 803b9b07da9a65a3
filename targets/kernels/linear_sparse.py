"""Balanced vector-sparse float32 linear layers.

Every block of ``nb`` outputs keeps the same number of inputs, and all outputs of a block share one
list of them: the inner loop is the dense one over fewer inputs, so that the gain is 1 / density.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.errors import TargetError
from targets.kernels.linear import accumulated, accumulator_shape, input_index, pack_dense
from targets.kernels.primfunc import axis, dims, family, prim_func

FAMILY_NAME = "linear_sparse"


def sparse(lead: Sequence[int], k: int, n: int, nb: int, kept: int) -> tirx.PrimFunc:
    """PrimFunc of a linear layer that reads ``kept`` of its ``k`` inputs for each output block.

    ``(x f32[*lead, k], values f32[ceil(n/nb), kept, nb], index i32[ceil(n/nb), kept])
    -> y f32[*lead, n]``
    """
    blocks = -(-n // nb)
    x = te.placeholder(dims(*lead, k), "float32", name="x")
    values = te.placeholder(dims(blocks, kept, nb), "float32", name="values")
    index = te.placeholder(dims(blocks, kept), "int32", name="index")
    kk = axis(kept, "k")
    acc = te.compute(
        accumulator_shape(lead, n, nb),
        lambda *i: te.sum(
            x[(*input_index(lead, i[:-2]), index[i[-2], kk].astype("int64"))]
            * values[i[-2], kk, i[-1]],
            axis=kk,
        ),
        name="linear",
        attrs=family(FAMILY_NAME),
    )
    y = te.compute(dims(*lead, n), lambda *i: accumulated(acc, lead, i), name="y")
    return prim_func([x, values, index, y])


def kept_index(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """bool [blocks, groups] to the ascending kept groups, int32 [blocks, kept].

    Raises TargetError if the blocks do not keep the same number.
    """
    counts = mask.sum(axis=1)
    if not len(counts) or counts.min() != counts.max() or counts[0] == 0:
        got = f"from {counts.min()} to {counts.max()}" if len(counts) else "no block"
        raise TargetError(
            "an unbalanced sparse weight",
            got=f"{got} kept inputs a block",
            allowed="the same number, at least 1, in every block",
        )
    return np.nonzero(mask)[1].reshape(len(mask), -1).astype(np.int32)


def pack_sparse(
    weight: NDArray[np.float32], mask: NDArray[np.bool_], nb: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(values, index) of a float32 [N, K] weight that is zero outside bool [ceil(N/nb), K].

    values: float32 [ceil(N/nb), kept, nb]; index: int32 [ceil(N/nb), kept].
    """
    index = kept_index(mask)
    packed = pack_dense(weight, nb)
    values = np.take_along_axis(packed, index[:, :, None].astype(np.int64), axis=1)
    return np.ascontiguousarray(values), index
