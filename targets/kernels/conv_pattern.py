"""Convolutions whose every kernel has a pattern of its own, or is removed (PatDNN, Niu et al. 2020).

Outputs share nothing here, so vectors run over positions of the image: a weight is one number for a
whole register tile of them. Strips are planes of one channel each, of all columns with their padding,
so that a tap is a constant shift; the surplus columns between two rows are computed and dropped.
A kept kernel is stored as its input channel, the number of its pattern and its taps.

Images being NHWC, planes and outputs are transposed, and most reads straddle two cache lines: sharing a
pattern among even 8 outputs (``conv_sparse``) is faster. This form is for weights pruned elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.errors import TargetError
from targets.kernels.cache import MOST_STRIP
from targets.kernels.primfunc import axis, dims, f32, family, prim_func
from targets.kernels.strip import STRIP_COLUMNS, columns, reads_whole_strips, rows_in, strip_rows
from targets.kernels.window import Window

FAMILY_NAME = "conv_pattern"

LANES = 16
"""Positions are counted in so many: a vector of the widest target, whole vectors of all others."""

MOST_VECTORS = 24
"""Vectors of sums that leave registers for a weight and for what is read."""


def pattern_tile(window: Window, rows: int) -> tuple[int, int]:
    """(tiles, positions of a tile) that the outputs of ``rows`` rows are computed in, surplus ones included."""
    vectors = -(-rows * columns(window) // LANES)
    tiles = -(-vectors // MOST_VECTORS)
    return tiles, -(-vectors // tiles) * LANES


def conv_pattern(
    batch: int,
    window: Window,
    n: int,
    kept: int,
    patterns: int,
    taps: int,
    strip: int = MOST_STRIP,
) -> tirx.PrimFunc:
    """PrimFunc of a convolution that keeps ``kept`` kernels of each output, ``taps`` positions of each.

    ``(x f32[batch,H,W,C], values f32[n,kept,taps], channel i32[n,kept], pattern u8[n,kept],
    table i32[patterns,taps]) -> y f32[batch,Ho,Wo,n]``; ``strip`` as in `conv`.

    Raises TargetError unless the strides are 1.
    """
    if window.strides != (1, 1):
        raise TargetError(
            "patterns of single kernels with strides",
            got=f"strides {window.strides}",
            allowed="(1, 1)",
            next="share patterns by a block of outputs: conv_sparse",
        )
    x = te.placeholder(dims(batch, window.height, window.width, window.channels), name="x")
    values = te.placeholder(dims(n, kept, taps), name="values")
    channel = te.placeholder(dims(n, kept), "int32", name="channel")
    pattern = te.placeholder(dims(n, kept), "uint8", name="pattern")
    table = te.placeholder(dims(patterns, taps), "int32", name="table")
    rows, wide = strip_rows(window, most=strip), columns(window)
    tiles, size = pattern_tile(window, rows)
    strips = window.out_height // rows
    planes = channel_planes(x, window, rows, tiles * size)
    k, t = axis(kept, "k"), axis(taps, "t")

    def product(b: tirx.Expr, s: tirx.Expr, o: tirx.Expr, at: tirx.Expr) -> tirx.Expr:
        shift = table[pattern[o, k].astype("int64"), t].astype("int64")
        read = planes[b, s, channel[o, k].astype("int64"), at + shift]
        return te.sum(read * values[o, k, t], axis=[k, t])

    shape = dims(batch, strips, n, tiles * size)
    sums = te.compute(shape, product, name="conv", attrs=family(FAMILY_NAME))
    y = te.compute(
        dims(batch, window.out_height, window.out_width, n),
        lambda b, row, column, o: sums[b, row // rows, o, row % rows * wide + column],
        name="y",
    )
    return reads_whole_strips(prim_func([x, values, channel, pattern, table, y]))


def channel_planes(x: te.Tensor, window: Window, rows: int, positions: int) -> te.Tensor:
    """f32[batch, strips, C, flat]: each channel's rows of a strip, one after the other, then zeros.

    Args:
        rows: output rows of a strip.
        positions: that are computed of them.
    """
    wide = columns(window)
    top, left, *_ = window.padding
    down, across = (d * (k - 1) for d, k in zip(window.dilation, window.kernel, strict=True))
    last = positions - 1 + down * wide + across
    deep = max(rows_in(window, rows), last // wide + 1)

    def padded(b: tirx.Expr, s: tirx.Expr, c: tirx.Expr, at: tirx.Expr) -> tirx.Expr:
        row, column = s * rows + at // wide - top, at % wide - left
        inside = (row >= 0, row < window.height, column >= 0, column < window.width)
        return tirx.if_then_else(tirx.all(*inside), x[b, row, column, c], f32(0))

    shape = dims(int(x.shape[0]), window.out_height // rows, window.channels, deep * wide)
    return te.compute(shape, padded, name="planes", attrs={STRIP_COLUMNS: wide})


def pack_pattern(
    weight: NDArray[np.float32], mask: NDArray[np.bool_], window: Window
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.uint8], NDArray[np.int32]]:
    """(values, channel, pattern, table) of an OIHW weight that is zero outside ``mask``.

    Args:
        weight: float32 [O, C, kh, kw].
        mask: bool [O, C * kh * kw], the kept inputs of each output in the order of OIHW.

    Returns:
        values float32 [O, kept, taps], channel int32 [O, kept], pattern uint8 [O, kept],
        table int32 [patterns, taps]: how far each tap is shifted in a plane.

    Raises TargetError if outputs keep different numbers of kernels, kernels different numbers of taps,
    or if there are more than 256 patterns.
    """
    kernels = mask.reshape(*weight.shape[:2], window.taps)
    alive = kernels.any(axis=2)
    counts, taps = alive.sum(axis=1), kernels.sum(axis=2)[alive]
    if not taps.size or counts.min() != counts.max() or taps.min() != taps.max():
        sizes = f", {taps.min()} to {taps.max()} taps a kernel" if taps.size else ""
        raise TargetError(
            "an unbalanced pattern",
            got=f"{counts.min()} to {counts.max()} kernels an output{sizes}",
            allowed="the same number of kernels, at least 1, and of taps",
        )
    output, channel = np.nonzero(alive)
    found, pattern = np.unique(kernels[output, channel], axis=0, return_inverse=True)
    if len(found) > 256:
        raise TargetError("too many patterns", got=str(len(found)), allowed="at most 256")
    positions = np.nonzero(found)[1].reshape(len(found), -1)
    dense = weight.reshape(*alive.shape, -1)[output, channel]
    values = np.take_along_axis(dense, positions[pattern.reshape(-1)], axis=1)
    row, column = np.divmod(positions, window.kernel[1])
    shift = row * window.dilation[0] * columns(window) + column * window.dilation[1]
    shape = (len(weight), -1)
    return (
        np.ascontiguousarray(values.reshape(len(weight), -1, positions.shape[1])),
        channel.reshape(shape).astype(np.int32),
        pattern.reshape(shape).astype(np.uint8),
        shift.astype(np.int32),
    )
