"""Pools over images in NHWC; those that see the whole image, or one number, as what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.image import channels_first, channels_last
from passes.normalize.reduce import reduced
from passes.normalize.values import Tensor, Value, shape_of

Pair = tuple[int, int]


def _max_pool(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """Rounding up is padding at the end: padding is never the maximum."""
    x, attrs = args[0], call.attrs
    if not _is_nchw(x, call):
        return None
    size, strides = _pair(attrs.pool_size), _pair(attrs.strides)
    dilation, (top, left, *_) = _pair(attrs.dilation), attrs.padding
    rest = [
        max(int(given), (out - 1) * stride + (k - 1) * step + 1 - n - int(before))
        for given, out, stride, k, step, n, before in zip(
            attrs.padding[2:],
            shape_of(call)[2:],
            strides,
            size,
            dilation,
            x.shape[2:],
            (top, left),
            strict=True,
        )
    ]
    padding = (int(top), int(left), *rest)
    if (size, strides, padding) == ((1, 1), (1, 1), (0, 0, 0, 0)):
        return x
    y = relax.op.nn.max_pool2d(
        channels_last(graph, x), size, strides, padding, dilation, layout="NHWC"
    )
    return channels_first(graph, y)


def _avg_pool(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    x, attrs = args[0], call.attrs
    if not _is_nchw(x, call) or _pair(attrs.dilation) != (1, 1):
        return None
    size, strides = _pair(attrs.pool_size), _pair(attrs.strides)
    padding = tuple(int(p) for p in attrs.padding)
    if not any(padding) and shape_of(call)[2:] == (1, 1) and size == x.shape[2:]:
        return reduced(graph, "mean", x, (2, 3), keepdims=True)
    if not any(padding) and size == strides == (1, 1):
        return x
    y = relax.op.nn.avg_pool2d(
        channels_last(graph, x),
        size,
        strides,
        padding,
        ceil_mode=bool(attrs.ceil_mode),
        count_include_pad=bool(attrs.count_include_pad) and any(padding),
        layout="NHWC",
    )
    return channels_first(graph, y)


def _adaptive_avg_pool(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """Windows of one size are a pool of that size; others stay adaptive."""
    x = args[0]
    if not _is_nchw(x, call):
        return None
    (height, width), (rows, columns) = x.shape[2:], shape_of(call)[2:]
    if (rows, columns) == (height, width):
        return x
    if (rows, columns) == (1, 1):
        return reduced(graph, "mean", x, (2, 3), keepdims=True)
    image = channels_last(graph, x)
    if height % rows or width % columns:
        y = relax.op.nn.adaptive_avg_pool2d(image, (rows, columns), layout="NHWC")
    else:
        size = (height // rows, width // columns)
        y = relax.op.nn.avg_pool2d(image, size, size, layout="NHWC")
    return channels_first(graph, y)


def _is_nchw(x: Value, call: relax.Call) -> bool:
    return isinstance(x, Tensor) and call.attrs.layout == call.attrs.out_layout == "NCHW"


def _pair(numbers: Any) -> Pair:
    first, second = (int(n) for n in numbers)
    return first, second


RULES: Mapping[str, Callable[..., Value | None]] = {
    "relax.nn.max_pool2d": _max_pool,
    "relax.nn.avg_pool2d": _avg_pool,
    "relax.nn.adaptive_avg_pool2d": _adaptive_avg_pool,
}
