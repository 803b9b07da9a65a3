"""Balanced sparse int8 convolutions: four channels at one position of the kernel stay or go together.

That is what one instruction consumes. Every block of outputs keeps the same number of such groups, and a
list says where each begins in a window: patterns that four channels share, connectivity, or any mixture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.cache import MOST_STRIP
from targets.kernels.conv import accumulator_shape, by_position
from targets.kernels.conv_int8 import (
    codes_of_image,
    dequantized_outputs,
    require_groups,
    with_channels,
)
from targets.kernels.linear_int8 import GROUP, pack_int8
from targets.kernels.linear_sparse import kept_index
from targets.kernels.primfunc import axis, dims, family, prim_func
from targets.kernels.strip import source, tap_offsets
from targets.kernels.window import Window

FAMILY_NAME = "conv_sparse_int8"


def conv_sparse_int8(
    batch: int, window: Window, n: int, nb: int, kept4: int, strip: int = MOST_STRIP
) -> tirx.PrimFunc:
    """PrimFunc of an int8 convolution that reads ``kept4`` groups of each window for each output block.

    ``(q u8[batch,H,W,C](, zero u8[C]), values s8[ceil(n/nb),kept4,nb,4], index i32[ceil(n/nb),kept4],
    scale f32[n], shift i32[n]) -> y f32[batch,Ho,Wo,n]``, as in `conv_int8`.
    """
    require_groups(window)
    blocks = -(-n // nb)
    q, given = codes_of_image(batch, window)
    values = te.placeholder(dims(blocks, kept4, nb, GROUP), "int8", name="values")
    index = te.placeholder(dims(blocks, kept4), "int32", name="index")
    read = source(q, window, strip, *given)
    g, i = axis(kept4, "g"), axis(GROUP, "i")
    acc = te.compute(
        accumulator_shape(batch, window, n, nb),
        lambda b, row, column, o, j: te.sum(
            read.at(b, row, column, index[o, g].astype("int64") + i).astype("int32")
            * values[o, g, j, i].astype("int32"),
            axis=[g, i],
        ),
        name="conv",
        attrs=family(FAMILY_NAME),
    )
    return prim_func([q, *given, values, index, *dequantized_outputs(acc, batch, window, n)])


def pack_conv_sparse_int8(
    codes: NDArray[np.int8], mask: NDArray[np.bool_], window: Window, nb: int
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """(values, index) of OIHW codes that are zero outside ``mask``.

    Args:
        codes: int8 [O, C, kh, kw].
        mask: bool [ceil(O/nb), ceil(C/4) * kh * kw], the kept groups of channels by position.

    Returns:
        values int8 [ceil(O/nb), kept, nb, 4], index int32 [ceil(O/nb), kept]: offsets in a strip.

    Raises TargetError if the blocks do not keep the same number.
    """
    walked = by_position(mask.reshape(len(mask), -1, *window.kernel))
    group = kept_index(walked)
    packed, _ = pack_int8(by_position(with_channels(codes, window.channels)), nb)
    values = np.take_along_axis(packed, group[:, :, None, None].astype(np.int64), axis=1)
    offsets = tap_offsets(window)[:, :, ::GROUP].reshape(-1)
    return np.ascontiguousarray(values), offsets[group]
