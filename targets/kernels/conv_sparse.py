"""Balanced vector-sparse float32 convolutions.

Every block of ``nb`` outputs keeps the same number of its (channel, row, column) inputs. A list says
how far each lies from the first number of a window, so that taps, channels or both may be missing:
pattern pruning, connectivity pruning (PatDNN, Niu et al. 2020) and any mixture are one kernel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.cache import MOST_STRIP
from targets.kernels.conv import accumulator_shape, by_position, outputs
from targets.kernels.linear_sparse import pack_sparse
from targets.kernels.primfunc import axis, dims, family, prim_func
from targets.kernels.strip import reads_whole_strips, source, spread, tap_offsets
from targets.kernels.window import Window

FAMILY_NAME = "conv_sparse"

LINE = 16
"""Channels in a cache line."""


def conv_sparse(
    batch: int, window: Window, n: int, nb: int, kept: int, strip: int = MOST_STRIP
) -> tirx.PrimFunc:
    """PrimFunc of a convolution that reads ``kept`` numbers of each window for each output block.

    ``(x f32[batch,H,W,C], values f32[ceil(n/nb),kept,nb], index i32[ceil(n/nb),kept])
    -> y f32[batch,Ho,Wo,n]``; ``strip`` as in `conv`.
    """
    blocks = -(-n // nb)
    x = te.placeholder(dims(batch, window.height, window.width, window.channels), name="x")
    values = te.placeholder(dims(blocks, kept, nb), name="values")
    index = te.placeholder(dims(blocks, kept), "int32", name="index")
    read = source(x, window, strip, spacing=spread(window))
    k = axis(kept, "k")
    acc = te.compute(
        accumulator_shape(batch, window, n, nb),
        lambda b, row, column, o, j: te.sum(
            read.at(b, row, column, index[o, k].astype("int64")) * values[o, k, j], axis=k
        ),
        name="conv",
        attrs=family(FAMILY_NAME),
    )
    func = prim_func([x, values, index, outputs(acc, batch, window, n)])
    return reads_whole_strips(func) if read.rows else func


def pack_conv_sparse(
    weight: NDArray[np.float32], mask: NDArray[np.bool_], window: Window, nb: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(values, index) of an OIHW weight that is zero outside ``mask``.

    Args:
        weight: float32 [O, C, kh, kw].
        mask: bool [ceil(O/nb), C * kh * kw], the kept inputs in the order of OIHW.

    Returns:
        values float32 [ceil(O/nb), kept, nb], index int32 [ceil(O/nb), kept]: offsets in a strip, in the
        order of `walk`.

    Raises TargetError if the blocks do not keep the same number.
    """
    order = walk(window)
    kept = by_position(mask.reshape(len(mask), *weight.shape[1:]))[:, order]
    values, position = pack_sparse(by_position(weight)[:, order], kept, nb)
    return values, tap_offsets(window, spread(window)).reshape(-1)[order][position]


def walk(window: Window) -> NDArray[np.int64]:
    """int64 [kh * kw * C]: the positions of ``by_position`` in the order in which a window is walked.

    All positions of the kernel in LINE channels, then those of the next LINE: each cache line of a window
    comes to the first-level cache once. With gaps in strips that made layers of 256 and 512 channels 4 to
    10 % faster on a Sapphire Rapids core, smaller ones up to 2 %.
    """
    taps = np.arange(window.features).reshape(window.taps, window.channels)
    chunks = range(0, window.channels, LINE)
    return np.concatenate([taps[:, c : c + LINE].reshape(-1) for c in chunks])
