"""Dense int8 convolutions on NHWC images of uint8 codes whose scales calibration fixed.

The windows of a convolution are rows of a linear layer, so the product is that of `linear_int8` and the
strips are those of `conv`. Padding is the code of zero, so that what zero points add is the same for
all windows and is taken off as a constant of each output.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.errors import TargetError
from targets.kernels.cache import MOST_STRIP
from targets.kernels.conv import accumulator_shape, by_position, run_offset, runs
from targets.kernels.linear_int8 import GROUP, pack_int8
from targets.kernels.primfunc import axis, dims, family, prim_func
from targets.kernels.strip import source
from targets.kernels.window import Window

FAMILY_NAME = "conv_int8"


def conv_int8(
    batch: int, window: Window, n: int, nb: int, strip: int = MOST_STRIP
) -> tirx.PrimFunc:
    """PrimFunc ``(q u8[batch,H,W,C](, zero u8[C]), w, scale f32[n], shift i32[n]) -> y f32[batch,Ho,Wo,n]``.

    ``y = (sum of q w - shift) * scale`` in exact int32 arithmetic. w is what ``pack_conv_int8`` makes,
    ``zero`` what stands for zero in each channel: it is there if the window is padded. ``shift`` is
    what zero points add to the sums, see `static_shift`; ``strip`` as in `conv`.

    Raises:
        TargetError: channels that are no multiple of four.
    """
    require_groups(window)
    q, given = codes_of_image(batch, window)
    count, length = runs(window)
    groups = length // GROUP
    w = te.placeholder(dims(-(-n // nb), count, groups, nb, GROUP), "int8", name="w")
    read = source(q, window, strip, *given)
    r, g, i = axis(count, "r"), axis(groups, "g"), axis(GROUP, "i")
    acc = te.compute(
        accumulator_shape(batch, window, n, nb),
        lambda b, row, column, o, j: te.sum(
            read.at(b, row, column, run_offset(window, r) + g * GROUP + i).astype("int32")
            * w[o, r, g, j, i].astype("int32"),
            axis=[r, g, i],
        ),
        name="conv",
        attrs=family(FAMILY_NAME),
    )
    return prim_func([q, *given, w, *dequantized_outputs(acc, batch, window, n)])


def require_groups(window: Window) -> None:
    """Raise TargetError if channels are not whole groups."""
    if window.channels % GROUP:
        raise TargetError(
            "an int8 convolution reads channels in groups of four",
            got=f"{window.channels} channels",
            allowed="a multiple of 4",
            next="pad them, with weights of zero",
        )


def codes_of_image(batch: int, window: Window) -> tuple[te.Tensor, list[te.Tensor]]:
    """(the image of codes, the codes of zero if there is padding)."""
    shape = dims(batch, window.height, window.width, window.channels)
    q = te.placeholder(shape, "uint8", name="q")
    zero = te.placeholder(dims(window.channels), "uint8", name="zero")
    return q, [zero] if window.padded else []


def dequantized_outputs(
    acc: te.Tensor, batch: int, window: Window, n: int
) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """(scale f32[n], shift i32[n], y f32[batch,Ho,Wo,n])."""
    nb = acc.shape[-1]
    scale = te.placeholder(dims(n), "float32", name="scale")
    shift = te.placeholder(dims(n), "int32", name="shift")

    def value(b: tirx.Var, row: tirx.Var, column: tirx.Var, j: tirx.Var) -> tirx.Expr:
        total = acc[b, row, column, j // nb, j % nb] - shift[j]
        return total.astype("float32") * scale[j]

    shape = dims(batch, window.out_height, window.out_width, n)
    return scale, shift, te.compute(shape, value, name="y")


def pack_conv_int8(codes: NDArray[np.int8], window: Window, nb: int) -> NDArray[np.int8]:
    """int8 OIHW to [ceil(O/nb), runs, groups, nb, 4], channels filled up to those of ``window``."""
    walked = by_position(with_channels(codes, window.channels))
    count, length = runs(window)
    packed, _ = pack_int8(walked, nb)
    return packed.reshape(-1, count, length // GROUP, nb, GROUP)


def with_channels(codes: NDArray[np.int8], channels: int) -> NDArray[np.int8]:
    """OIHW codes with zeros for the channels that they lack."""
    return np.pad(codes, ((0, 0), (0, channels - codes.shape[1]), (0, 0), (0, 0)))
