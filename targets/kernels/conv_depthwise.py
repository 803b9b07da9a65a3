"""Depthwise float32 convolutions on NHWC images: every channel has a kernel of its own.

Vectorised over channels. Nothing is padded: a tap outside the image counts as zero, and only register
tiles at the border ask which taps those are (see ``tile_depthwise``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.primfunc import axis, dims, f32, family, prim_func
from targets.kernels.window import Window

FAMILY_NAME = "conv_depthwise"


def conv_depthwise(batch: int, window: Window) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[batch,H,W,C], w f32[kh,kw,C]) -> y f32[batch,Ho,Wo,C]``."""
    win, (kh, kw) = window, window.kernel
    (top, left, *_), (down, across), (dh, dw) = win.padding, win.strides, win.dilation
    x = te.placeholder(dims(batch, win.height, win.width, win.channels), name="x")
    w = te.placeholder(dims(kh, kw, win.channels), name="w")
    r, s = axis(kh, "r"), axis(kw, "s")

    def tap(b: tirx.Expr, row: tirx.Expr, column: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        h, v = row * down + r * dh - top, column * across + s * dw - left
        inside = tirx.all(h >= 0, h < win.height, v >= 0, v < win.width)
        value = tirx.if_then_else(inside, x[b, h, v, c], f32(0)) if win.padded else x[b, h, v, c]
        return te.sum(value * w[r, s, c], axis=[r, s])

    shape = dims(batch, win.out_height, win.out_width, win.channels)
    acc = te.compute(shape, tap, name="conv", attrs=family(FAMILY_NAME))
    return prim_func([x, w, te.compute(shape, lambda *i: acc[i], name="y")])


def pack_depthwise(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [C, 1, kh, kw] (OIHW with groups = C) to [kh, kw, C]."""
    return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))
