"""Convolutions in NHWC with weights of their own; those that are linear layers as linear layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.image import TO_NCHW, TO_NHWC, channels_first, channels_last, turned
from passes.normalize.linear import linear
from passes.normalize.values import Tensor, Value, shape_of
from passes.normalize.weight import Weight, moved, weight_of, written


@dataclass(frozen=True)
class _Geometry:
    """How the window moves; padding is top, left, bottom, right."""

    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def packed(self) -> bool:
        """Whether windows begin at every stride, nothing is added and all channels meet."""
        return self.padding == (0, 0, 0, 0) and self.dilation == (1, 1) and self.groups == 1


def _conv2d(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    x, attrs = args[0], call.attrs
    weight = weight_of(graph, args[1], outputs=0)
    if not isinstance(x, Tensor) or weight is None or attrs.kernel_layout != "OIHW":
        return None
    top, left, bottom, right = (int(p) for p in attrs.padding)
    geometry = _Geometry(
        (int(attrs.strides[0]), int(attrs.strides[1])),
        (top, left, bottom, right),
        (int(attrs.dilation[0]), int(attrs.dilation[1])),
        int(attrs.groups),
    )
    layouts = (attrs.data_layout, attrs.out_layout)
    if layouts == ("NCHW", "NCHW"):
        return convolution(graph, x, weight, geometry)
    if layouts == ("NHWC", "NHWC"):
        return convolution(graph, turned(graph, x, TO_NCHW), weight, geometry).permute(TO_NHWC)
    return None


def _conv1d(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """A convolution over images of height 1."""
    x, attrs = args[0], call.attrs
    weight = weight_of(graph, args[1], outputs=0)
    layouts = (attrs.data_layout, attrs.kernel_layout, attrs.out_layout)
    if not isinstance(x, Tensor) or weight is None or layouts != ("NCW", "OIW", "NCW"):
        return None
    batch, channels, length = x.shape
    image = x.reshape((batch, channels, 1, length))
    if image is None:
        return None
    left, right = (int(p) for p in attrs.padding)
    geometry = _Geometry(
        (1, int(attrs.strides[0])),
        (0, left, 0, right),
        (1, int(attrs.dilation[0])),
        int(attrs.groups),
    )
    kernel = moved(weight, lambda array: array[:, :, None])
    return convolution(graph, image, kernel, geometry).reshape(shape_of(call))


def convolution(graph: Graph, x: Tensor, weight: Weight, geometry: _Geometry) -> Tensor:
    """The convolution of [N, C, H, W] with a weight [O, C / groups, kh, kw], seen as [N, O, H, W].

    One of 1 x 1 at every place is a linear layer. So is one of windows side by side (the patches
    of a vision transformer) if the image has to be moved anyway.
    """
    x, geometry = _with_pad(graph, x, geometry)
    kernel = weight.shape[2:]
    tiles = geometry.packed and geometry.strides == kernel
    whole = all(n % k == 0 for n, k in zip(x.shape[2:], kernel, strict=True))
    if tiles and whole and (kernel == (1, 1) or not turned(graph, x, TO_NHWC).direct):
        return _linear(graph, x, weight)
    y = relax.op.nn.conv2d(
        channels_last(graph, x),
        written(graph, weight, "conv"),
        strides=geometry.strides,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        data_layout="NHWC",
        kernel_layout="OIHW",
        out_layout="NHWC",
    )
    return channels_first(graph, y)


def _linear(graph: Graph, x: Tensor, weight: Weight) -> Tensor:
    """The product of W, flattened, with each of the windows that tile the image."""
    batch, channels, height, width = x.shape
    outputs, _, kh, kw = weight.shape
    rows, columns = height // kh, width // kw
    split = x.reshape((batch, channels, rows, kh, columns, kw))
    if split is None:
        split = Tensor.of(graph.read(x)).reshape((batch, channels, rows, kh, columns, kw))
    assert split is not None
    patches = turned(graph, split, (0, 2, 4, 1, 3, 5))
    shape = (batch, rows, columns, channels * kh * kw)
    flat = patches.reshape(shape) or Tensor.of(graph.read(patches)).reshape(shape)
    assert flat is not None
    matrix = moved(weight, lambda array: array.reshape(outputs, -1))
    return turned(graph, linear(graph, flat, matrix, (*shape[:3], outputs)), TO_NCHW)


def _with_pad(graph: Graph, x: Tensor, geometry: _Geometry) -> tuple[Tensor, _Geometry]:
    """Zeros that were added around the image before it, as the convolution's own padding."""
    call = graph.producer(x.var, "nn.pad")
    order = x.view.axis_order()
    if call is None or order is None or x.broadcast is not None:
        return x, geometry
    widths = np.array([int(w) for w in call.attrs.pad_width]).reshape(-1, 2)[list(order)]
    plain = call.attrs.pad_mode == "constant" and float(call.attrs.pad_value) == 0
    if not plain or (widths < 0).any() or widths[:2].any():
        return x, geometry
    before, after = widths[2:, 0], widths[2:, 1]
    top, left, bottom, right = np.add(geometry.padding, [*before, *after])
    padded = replace(geometry, padding=(int(top), int(left), int(bottom), int(right)))
    return turned(graph, Tensor.of(call.args[0]), order), padded


RULES: Mapping[str, Callable[..., Value | None]] = {
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv1d": _conv1d,
}
