"""Convolutions of the canonical form become calls of packed kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.patterns import shape_of
from passes.rewrite import Rewriting
from targets.kernels.cache import strip_bytes
from targets.kernels.conv import conv, pack_conv, runs
from targets.kernels.conv_depthwise import conv_depthwise
from targets.kernels.window import Window
from targets.target import Target

DEPTHWISE = ".depthwise"
"""Suffix of the weight that lowering makes of one that has a kernel for each channel."""


def conv_weight(graph: Rewriting, expr: relax.Expr) -> str | None:
    """The weight if ``expr`` is a canonical convolution that a kernel computes.

    In one group, or in as many as there are channels, inputs and outputs alike.
    """
    call = graph.call(expr, "nn.conv2d")
    if call is None or not isinstance(call.args[1], relax.Var):
        return None
    layouts = (call.attrs.data_layout, call.attrs.kernel_layout, call.attrs.out_layout)
    suits = int(call.attrs.groups) == 1 or is_depthwise(call)
    if layouts != ("NHWC", "OIHW", "NHWC") or not suits:
        return None
    return call.args[1].name if graph.value(call.args[1]) is None else None


def is_depthwise(call: relax.Call) -> bool:
    """Whether each output of a canonical convolution comes from a channel of its own."""
    groups = int(call.attrs.groups)
    return groups > 1 and groups == shape_of(call.args[0])[-1] == shape_of(call.args[1])[0]


def window_of(call: relax.Call) -> Window:
    """The windows of a canonical convolution."""
    attrs = call.attrs
    _, height, width, channels = shape_of(call.args[0])
    rows, columns = shape_of(call.args[1])[2:]
    down, across = (int(n) for n in attrs.strides)
    top, left, bottom, right = (int(n) for n in attrs.padding)
    dilation = (int(attrs.dilation[0]), int(attrs.dilation[1]))
    padding = (top, left, bottom, right)
    return Window(height, width, channels, (rows, columns), (down, across), padding, dilation)


def conv_call(graph: Rewriting, call: relax.Call, packed: relax.Expr, target: Target) -> relax.Call:
    """The call of a kernel that computes ``call``, a convolution of the old graph.

    Args:
        graph: where the kernel is added.
        call: a canonical convolution.
        packed: its weight as ``packed_conv`` gives it, or as ``pack_depthwise`` if it is depthwise.
        target: what it is for.
    """
    window = window_of(call)
    x = graph.new(call.args[0])
    if is_depthwise(call):
        kernel = graph.kernel(conv_depthwise(shape_of(x)[0], window), "depthwise")
        return relax.call_tir(kernel, [x, packed], call.ty)
    outputs = shape_of(call.args[1])[0]
    func = conv(shape_of(x)[0], window, outputs, target.block, strip_bytes(target))
    kernel = graph.kernel(func, "conv")
    shape = (*shape_of(packed)[:1], *runs(window), target.block)
    if shape != shape_of(packed):  # dilated: the same numbers in more runs
        packed = graph.emit(relax.op.reshape(packed, shape))
    return relax.call_tir(kernel, [x, packed], call.ty)


def packed_conv(weight: NDArray[np.float32], target: Target) -> NDArray[np.float32]:
    """A weight OIHW in the order in which kernels read it, whatever image it is for."""
    _, channels, rows, columns = weight.shape
    return pack_conv(weight, Window(rows, columns, channels, (rows, columns)), target.block)
