"""Dense float32 convolutions on NHWC images, with weights packed at compile time.

The product is that of a linear layer whose rows are windows, and the same register tile computes it:
a few columns of one output row by a block of ``nb`` output channels. The taps of a window run in the
order (row, column, channel), so that what is read for one row of the kernel is contiguous.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.cache import MOST_STRIP
from targets.kernels.linear import pack_dense
from targets.kernels.primfunc import axis, dims, family, prim_func
from targets.kernels.strip import column_slack, pitch, source
from targets.kernels.window import Window

FAMILY_NAME = "conv"

Number = TypeVar("Number", bound=np.generic)


def runs(window: Window) -> tuple[int, int]:
    """(runs, length): stretches of a window that are contiguous in memory, all of one length.

    A row of the kernel is one run; with dilation, a single position of it is.
    """
    (kh, kw), channels = window.kernel, window.channels
    return (kh, kw * channels) if window.dilation[1] == 1 else (kh * kw, channels)


def run_offset(window: Window, run: tirx.Expr) -> tirx.Expr:
    """Where a run begins, relative to the first number of its window."""
    down = window.dilation[0] * pitch(window)
    if window.dilation[1] == 1:
        return run * down
    kw, across = window.kernel[1], window.dilation[1] * window.channels
    return run // kw * down + run % kw * across


def conv(batch: int, window: Window, n: int, nb: int, strip: int = MOST_STRIP) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[batch,H,W,C], w) -> y f32[batch,Ho,Wo,n]``; w is what ``pack_conv`` makes.

    ``strip`` is the most bytes that a strip of the image may take on the target: `cache.strip_bytes`.
    """
    x = te.placeholder(dims(batch, window.height, window.width, window.channels), name="x")
    count, length = runs(window)
    w = te.placeholder(dims(-(-n // nb), count, length, nb), name="w")
    read = source(x, window, strip)
    r, k = axis(count, "r"), axis(length, "k")
    acc = te.compute(
        accumulator_shape(batch, window, n, nb),
        lambda b, row, column, o, j: te.sum(
            read.at(b, row, column, run_offset(window, r) + k) * w[o, r, k, j], axis=[r, k]
        ),
        name="conv",
        attrs=family(FAMILY_NAME),
    )
    return prim_func([x, w, outputs(acc, batch, window, n)])


def accumulator_shape(batch: int, window: Window, n: int, nb: int) -> tuple[tirx.IntImm, ...]:
    """[batch, output rows, output columns with slack, blocks of outputs, outputs of a block]."""
    wide = window.out_width + column_slack(window)
    return dims(batch, window.out_height, wide, -(-n // nb), nb)


def outputs(acc: te.Tensor, batch: int, window: Window, n: int) -> te.Tensor:
    """f32[batch, Ho, Wo, n] out of the accumulators."""
    nb = acc.shape[-1]
    shape = dims(batch, window.out_height, window.out_width, n)
    return te.compute(
        shape, lambda b, row, column, j: acc[b, row, column, j // nb, j % nb], name="y"
    )


def by_position(weight: NDArray[Number]) -> NDArray[Number]:
    """OIHW to [O, kh * kw * C]: the order (row, column, channel) in which kernels walk a window."""
    return weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)


def pack_conv(weight: NDArray[np.float32], window: Window, nb: int) -> NDArray[np.float32]:
    """float32 OIHW to [ceil(O/nb), runs, length of a run, nb]; outputs beyond O are zero."""
    packed = pack_dense(by_position(weight), nb)
    return packed.reshape(-1, *runs(window), nb)
