"""Where a convolution reads: padded strips of the image, or the image itself.

The image is never padded as a whole. A *strip* is the input rows, zeros included, that a few rows of
outputs need; it is made in a buffer that stays in the cache while all outputs of the strip are
computed. It is flat, (rows * columns * channels), so that one number addresses a tap of any window
and two neighbouring windows lie a constant apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import s_tir, te, tirx

from targets.kernels.cache import MOST_STRIP
from targets.kernels.linear import ROW_SLACK
from targets.kernels.primfunc import FAMILY, dims
from targets.kernels.window import Window

CROWDED = 256
"""Channels that lie too regularly: so many float32 are 1 KiB."""

GAP = 16
"""Numbers left unused behind each position then: a cache line of float32."""

STRIP_COLUMNS = "codesign.strip_columns"
"""Annotation on the block that makes strips: columns of a row."""

STRIP_SPACING = "codesign.strip_spacing"
"""Annotation on the block that makes strips: numbers from one position to the next."""


def strip_rows(window: Window, size: int = 4, most: int = MOST_STRIP) -> int:
    """Output rows of a strip of numbers of ``size`` bytes: as many as keep it within ``most`` bytes, dividing
    all rows evenly.

    Large images of a prime height have strips of single rows: 2 % slower to 8 % faster than all of it on a Zen 5
    core. Where not even one row fits, it is so many that less than half of what is copied belongs to the next
    strip as well.
    """
    row_bytes = size * pitch(window)
    divisors = [d for d in range(1, window.out_height + 1) if window.out_height % d == 0]
    if fitting := [d for d in divisors if rows_in(window, d) * row_bytes <= most]:
        return fitting[-1]
    overlap = window.span[0] - window.strides[0]
    return next((d for d in divisors if d * window.strides[0] >= overlap), divisors[-1])


def columns(window: Window) -> int:
    """Columns of a strip: those that some window sees."""
    return (window.out_width - 1) * window.strides[1] + window.span[1]


def rows_in(window: Window, out_rows: int) -> int:
    """Input rows that ``out_rows`` rows of outputs see."""
    return (out_rows - 1) * window.strides[0] + window.span[0]


def spread(window: Window) -> int:
    """Numbers from one position to the next in strips that are read out of order: the channels, and a gap
    where these are many.

    Positions a multiple of 1 KiB apart share so few sets of the first-level cache that one cache line of
    each position of a register tile's windows does not fit there.
    """
    return window.channels + (GAP if window.channels % CROWDED == 0 else 0)


def pitch(window: Window) -> int:
    """Numbers from one row of a strip without gaps to the next."""
    return columns(window) * window.channels


def column_slack(window: Window) -> int:
    """Columns of accumulators beyond the real ones: a register tile may overhang the end by so many."""
    return min(ROW_SLACK, window.out_width - 1)


@dataclass(frozen=True)
class Source:
    """What a convolution reads: strips, or the image itself where windows are single positions.

    Attributes:
        tensor: strips [batch, strips, flat], or the image [batch, height, width, channels].
        window: the geometry.
        rows: output rows of a strip; 0 for the image.
        spacing: numbers from one position to the next.
    """

    tensor: te.Tensor
    window: Window
    rows: int
    spacing: int

    def at(self, image: tirx.Expr, row: tirx.Expr, column: tirx.Expr, tap: tirx.Expr) -> tirx.Expr:
        """The number at ``tap`` (see ``tap_offsets``) of the window at output (row, column)."""
        w = self.window
        down, across = w.strides
        if not self.rows:
            last = tirx.IntImm("int64", w.out_width - 1)
            return self.tensor[image, row * down, tirx.min(column, last) * across, tap]
        pitch = columns(w) * self.spacing
        corner = row % self.rows * (down * pitch) + column * (across * self.spacing)
        return self.tensor[image, row // self.rows, corner + tap]


def source(
    x: te.Tensor,
    window: Window,
    most: int,
    zero: te.Tensor | None = None,
    spacing: int | None = None,
) -> Source:
    """What the convolution of ``x`` [N,H,W,C] reads.

    A strip has one row of padding more than its windows see: surplus columns of the last register tile
    of a row read on into the next row, and those of the last row into that one.

    Args:
        most: bytes of a strip, as `cache.strip_bytes` gives it.
        zero: [C], what stands for zero in each channel; None is 0.
        spacing: of positions in a strip; None is the number of channels.
    """
    w, step = window, spacing or window.channels
    if w.taps == 1 and not w.padded:
        return Source(x, w, 0, w.channels)
    rows = strip_rows(w, np.dtype(str(x.dtype)).itemsize, most)
    wide, deep = columns(w), rows_in(w, rows)
    top, left, *_ = w.padding

    def padded(n: tirx.Expr, strip: tirx.Expr, flat: tirx.Expr) -> tirx.Expr:
        own = flat // (wide * step)
        column, channel = flat // step % wide - left, flat % step
        row = strip * (rows * w.strides[0]) + own - top
        inside = [own < deep, row >= 0, row < w.height, column >= 0, column < w.width]
        if step > w.channels:
            inside.append(channel < w.channels)
        padding = tirx.const(0, x.dtype) if zero is None else zero[channel]
        return tirx.if_then_else(tirx.all(*inside), x[n, row, column, channel], padding)

    shape = dims(int(x.shape[0]), w.out_height // rows, (deep + 1) * wide * step)
    marks = {STRIP_COLUMNS: wide, STRIP_SPACING: step}
    return Source(te.compute(shape, padded, name="strip", attrs=marks), w, rows, step)


def reads_whole_strips(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Say of the product in ``func`` that it reads any part of its strip.

    TVM needs a bound to make strips where they are used, and finds none for an address out of a list.
    """

    strips = func.body.block.alloc_buffers[0]

    def widened(read: tvm.ir.TensorRegion) -> tvm.ir.TensorRegion:
        if not read.source.same_as(strips):
            return read
        image, strip, *_ = (r.min for r in read.region)
        return strips[(image, strip, *(slice(0, extent) for extent in strips.shape[2:]))]

    def visit(block: s_tir.SBlock) -> s_tir.SBlock:
        if FAMILY not in block.annotations:
            return block
        return s_tir.SBlock(
            block.iter_vars,
            [widened(read) for read in block.reads],
            block.writes,
            block.name_hint,
            block.body,
            block.init,
            block.alloc_buffers,
            block.match_buffers,
            block.annotations,
        )

    body = tvm_ffi.structural_map(func.body, [(s_tir.SBlock, visit)])
    return func.with_body(body)


def tap_offsets(window: Window, spacing: int | None = None) -> NDArray[np.int32]:
    """int32 [kh, kw, C]: how far from the first number of a window each of its taps lies in a strip.

    ``spacing`` is that of `source`.
    """
    step = spacing or window.channels
    (kh, kw), (dh, dw) = window.kernel, window.dilation
    r, s, c = np.ogrid[:kh, :kw, : window.channels]
    return (r * dh * columns(window) * step + s * dw * step + c).astype(np.int32)
