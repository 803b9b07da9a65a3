"""Convolutions of every format on GPUs against float64: odd images, padding, strides, dilation, batches."""

from __future__ import annotations

import numpy as np
import pytest

from targets.gpu_kernels.product import STRIPS_INLINE, ProductTile, product_tiles, tile_product
from targets.kernels.blocks import new_schedule
from targets.kernels.conv import conv, pack_conv
from targets.kernels.conv_depthwise import conv_depthwise, pack_depthwise
from targets.kernels.conv_fp16 import conv_fp16, pack_conv_fp16
from targets.kernels.conv_int8 import conv_int8, pack_conv_int8
from targets.kernels.conv_pattern import conv_pattern, pack_pattern
from targets.kernels.conv_sparse import conv_sparse, pack_conv_sparse
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_fp16 import fp16_values
from targets.kernels.window import Window
from targets.opencl_program import program
from targets.pocl import run_program
from targets.target import find
from tests.targets.references import convolved

WINDOWS = {
    "padded": Window(9, 11, 6, (3, 3), padding=(1, 1, 1, 1)),
    "strided": Window(9, 12, 4, (3, 3), (2, 2), padding=(0, 1, 1, 1)),
    "dilated": Window(9, 11, 5, (3, 2), padding=(1, 0, 2, 1), dilation=(2, 2)),
    "pointwise": Window(7, 5, 12, (1, 1)),
    "one column": Window(6, 1, 8, (3, 1), padding=(1, 0, 1, 0)),
}


def image(window, outputs, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, window.height, window.width, window.channels))
    w = rng.standard_normal((outputs, window.channels, *window.kernel))
    return x.astype(np.float32), w.astype(np.float32)


@pytest.mark.parametrize("name", WINDOWS)
def test_conv(run_gpu, close, gpu, name):
    window, outputs = WINDOWS[name], 19
    x, w = image(window, outputs)
    func = with_epilogue(conv(2, window, outputs, gpu.block), bias=True, activation="relu")
    bias = np.linspace(-2, 2, outputs, dtype=np.float32)
    wanted = np.maximum(convolved(x, w, window) + bias, 0)
    for (y,) in run_gpu(func, gpu, [x, pack_conv(w, window, gpu.block), bias], name == "padded"):
        close(y, wanted)


def test_padding_may_be_computed_with_each_read(run_gpu, close):
    target, window = find("adreno"), WINDOWS["padded"]
    func = conv(2, window, 19, target.block)
    assert any(tile.strips == STRIPS_INLINE for tile in product_tiles(func, target))
    x, w = image(window, 19)
    for rows in (1, 3):
        sch = new_schedule(func)
        tile_product(sch, ProductTile(rows, 3, 2, 2, STRIPS_INLINE))
        made = program(sch, target)
        assert len(made.launches) == 1
        (y,) = run_program(made, [x, pack_conv(w, window, target.block)])
        close(y, convolved(x, w, window))


@pytest.mark.parametrize("name", ["padded", "strided"])
def test_sparse(run_gpu, close, gpu, name):
    window, outputs, kept = WINDOWS[name], 19, 11
    x, w = image(window, outputs)
    rng = np.random.default_rng(4)
    mask = np.zeros((-(-outputs // gpu.block), window.features), bool)
    for row in mask:
        row[rng.permutation(window.features)[:kept]] = True
    w = (w.reshape(outputs, -1) * np.repeat(mask, gpu.block, axis=0)[:outputs]).reshape(w.shape)
    packed = pack_conv_sparse(w, mask, window, gpu.block)
    for (y,) in run_gpu(conv_sparse(2, window, outputs, gpu.block, kept), gpu, [x, *packed]):
        close(y, convolved(x, w, window))


def test_int8(run_gpu, close, gpu):
    window, outputs = Window(9, 11, 8, (3, 3), padding=(1, 1, 1, 1)), 19
    rng = np.random.default_rng(4)
    q = rng.integers(0, 256, (2, 9, 11, 8)).astype(np.uint8)
    zero = rng.integers(0, 256, 8).astype(np.uint8)
    w = rng.integers(-127, 128, (outputs, 8, 3, 3)).astype(np.int8)
    scale = rng.uniform(0.5, 2, outputs).astype(np.float32)
    shift = rng.integers(-9999, 9999, outputs).astype(np.int32)
    padded = np.broadcast_to(zero, (2, 11, 13, 8)).copy()
    padded[:, 1:-1, 1:-1] = q
    wanted = (convolved(padded, w, Window(11, 13, 8, (3, 3))) - shift) * scale
    inputs = [q, zero, pack_conv_int8(w, window, gpu.block), scale, shift]
    for (y,) in run_gpu(conv_int8(2, window, outputs, gpu.block), gpu, inputs):
        close(y, wanted)


def test_fp16(run_gpu, close, gpu):
    window, outputs = Window(9, 11, 16, (3, 3), padding=(1, 1, 1, 1)), 19
    x, w = image(window, outputs)
    wanted = convolved(fp16_values(x), fp16_values(w), window)
    inputs = [x.astype(np.float16), pack_conv_fp16(w, window, gpu.block)]
    for (y,) in run_gpu(conv_fp16(2, window, outputs, gpu.block), gpu, inputs):
        close(y, wanted, 2e-3)


@pytest.mark.parametrize(
    "window",
    [
        Window(9, 11, 6, (3, 3), (2, 2), (1, 1, 1, 1)),
        Window(14, 14, 32, (5, 5), (1, 1), (2, 2, 2, 2)),
        Window(7, 5, 7, (3, 3), dilation=(2, 1)),
    ],
)
def test_depthwise(run_gpu, close, gpu, window):
    x, _ = image(window, 1)
    w = np.random.default_rng(1).standard_normal((window.channels, 1, *window.kernel))
    w = w.astype(np.float32)
    wanted = convolved(x, w, window, groups=window.channels)
    for (y,) in run_gpu(conv_depthwise(2, window), gpu, [x, pack_depthwise(w)], every=True):
        close(y, wanted)


def test_patterns_of_single_kernels(run_gpu, close, gpu):
    window, outputs, kept, taps = WINDOWS["padded"], 19, 3, 4
    x, w = image(window, outputs)
    rng = np.random.default_rng(6)
    mask = np.zeros((outputs, window.channels, window.taps), bool)
    shapes = [rng.permutation(window.taps)[:taps] for _ in range(5)]
    for output in mask:
        for channel in rng.permutation(window.channels)[:kept]:
            output[channel, shapes[rng.integers(5)]] = True
    w = w * mask.reshape(w.shape)
    packed = pack_pattern(w, mask.reshape(outputs, -1), window)
    func = conv_pattern(2, window, outputs, kept, len(packed[3]), taps)
    for (y,) in run_gpu(func, gpu, [x, *packed]):
        close(y, convolved(x, w, window))
