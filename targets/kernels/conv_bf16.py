"""Dense bfloat16 convolutions on NHWC images of bfloat16 bits: the products of `linear_bf16` on strips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.errors import TargetError
from targets.kernels.cache import MOST_STRIP
from targets.kernels.conv import accumulator_shape, by_position, outputs, run_offset, runs
from targets.kernels.linear_bf16 import GROUP, pack_bf16, te_widen
from targets.kernels.primfunc import axis, dims, family, prim_func
from targets.kernels.strip import source
from targets.kernels.window import Window

FAMILY_NAME = "conv_bf16"


def conv_bf16(
    batch: int, window: Window, n: int, nb: int, strip: int = MOST_STRIP
) -> tirx.PrimFunc:
    """PrimFunc ``(x u16[batch,H,W,C], w) -> y f32[batch,Ho,Wo,n]``; w is what ``pack_conv_bf16`` makes.

    ``strip`` as in `conv`.

    Raises:
        TargetError: an odd number of channels.
    """
    if window.channels % GROUP:
        raise TargetError(
            "a bfloat16 convolution reads channels in pairs",
            got=f"{window.channels} channels",
            allowed="an even number",
            next="add one, with weights of zero",
        )
    shape = dims(batch, window.height, window.width, window.channels)
    x = te.placeholder(shape, "uint16", name="x")
    count, length = runs(window)
    groups = length // GROUP
    w = te.placeholder(dims(-(-n // nb), count, groups, nb, GROUP), "uint16", name="w")
    read = source(x, window, strip)
    r, g, i = axis(count, "r"), axis(groups, "g"), axis(GROUP, "i")
    acc = te.compute(
        accumulator_shape(batch, window, n, nb),
        lambda b, row, column, o, j: te.sum(
            te_widen(read.at(b, row, column, run_offset(window, r) + g * GROUP + i))
            * te_widen(w[o, r, g, j, i]),
            axis=[r, g, i],
        ),
        name="conv",
        attrs=family(FAMILY_NAME),
    )
    return prim_func([x, w, outputs(acc, batch, window, n)])


def pack_conv_bf16(weight: NDArray[np.float32], window: Window, nb: int) -> NDArray[np.uint16]:
    """float32 OIHW to the bits of [ceil(O/nb), runs, pairs, nb, 2], channels as many as ``window`` has."""
    count, length = runs(window)
    packed = pack_bf16(by_position(with_channels(weight, window.channels)), nb)
    return packed.reshape(-1, count, length // GROUP, nb, GROUP)


def with_channels(weight: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """An OIHW weight with zeros for the channels that it lacks."""
    return np.pad(weight, ((0, 0), (0, channels - weight.shape[1]), (0, 0), (0, 0)))
