"""Dense float16 convolutions on NHWC images: the sums of `linear_fp16`, short and long, on strips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.cache import MOST_STRIP
from targets.kernels.conv import accumulator_shape, outputs, pack_conv, run_offset, runs
from targets.kernels.conv_bf16 import with_channels
from targets.kernels.linear_fp16 import CHUNK, chunk_of, short_sum
from targets.kernels.primfunc import axis, dims, family, prim_func
from targets.kernels.strip import source
from targets.kernels.window import Window

FAMILY_NAME = "conv_fp16"


def chunks_of(window: Window) -> tuple[int, int]:
    """(runs, numbers of a run) of the products that are added in float16."""
    count, length = runs(window)
    if length > CHUNK:
        return 1, chunk_of(length)
    return max(d for d in range(1, count + 1) if count % d == 0 and d * length <= CHUNK), length


def conv_fp16(
    batch: int, window: Window, n: int, nb: int, strip: int = MOST_STRIP
) -> tirx.PrimFunc:
    """PrimFunc ``(x f16[batch,H,W,C], w) -> y f32[batch,Ho,Wo,n]``; w is what ``pack_conv_fp16`` makes.

    ``strip`` as in `conv`.
    """
    shape = dims(batch, window.height, window.width, window.channels)
    x = te.placeholder(shape, "float16", name="x")
    count, length = runs(window)
    w = te.placeholder(dims(-(-n // nb), count, length, nb), "float16", name="w")
    read = source(x, window, strip)
    some, few = chunks_of(window)
    r, k = axis(some, "r"), axis(few, "k")
    down, along = axis(count // some, "down"), axis(length // few, "along")
    shape = accumulator_shape(batch, window, n, nb)

    def short(
        down: tirx.Var, along: tirx.Var, b: tirx.Var, row: tirx.Var, column: tirx.Var,
        o: tirx.Var, j: tirx.Var,
    ) -> tirx.Expr:  # fmt: skip
        run, at = down * some + r, along * few + k
        number = read.at(b, row, column, run_offset(window, run) + at)
        return short_sum(number * w[o, run, at, j], axis=[r, k])

    part = te.compute(dims(count // some, length // few, *shape), short, name="part")
    acc = te.compute(
        shape,
        lambda *i: te.sum(part[(down, along, *i)].astype("float32"), axis=[down, along]),
        name="conv",
        attrs=family(FAMILY_NAME),
    )
    return prim_func([x, w, outputs(acc, batch, window, n)])


def pack_conv_fp16(weight: NDArray[np.float32], window: Window, nb: int) -> NDArray[np.float16]:
    """float32 OIHW to float16 [ceil(O/nb), runs, length of a run, nb], channels as ``window`` has."""
    return pack_conv(with_channels(weight, window.channels), window, nb).astype(np.float16)
