"""Convolutions on AMX: bfloat16 near float64, int8 exact, on widths that no tile divides."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from targets.kernels.amx import lower_tiles
from targets.kernels.amx_nest import TILES
from targets.kernels.conv_bf16 import conv_bf16, pack_conv_bf16
from targets.kernels.conv_int8 import conv_int8, pack_conv_int8
from targets.kernels.conv_sparse_int8 import conv_sparse_int8
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_bf16 import bf16_bits, bf16_values
from targets.kernels.linear_int8 import static_shift
from targets.kernels.spaces import schedules
from targets.kernels.tile_conv_amx import conv_tiles_amx
from targets.kernels.window import Window
from targets.target import find
from tests.targets.references import convolved

WINDOWS = [
    Window(7, 28, 64, (3, 3), padding=(1, 1, 1, 1)),
    Window(13, 33, 32, (3, 3), strides=(2, 2), padding=(1, 0, 1, 1)),
    Window(12, 21, 32, (5, 3), padding=(2, 1, 2, 1), dilation=(1, 2)),
]
AMX = find("sapphirerapids")
rng = np.random.default_rng(0)
needs_tiles = pytest.mark.skipif(bool(AMX.missing()), reason="this machine lacks AMX")


def of_tiles(func, target):
    """The schedules of AMX among all."""
    return [s for s in schedules(func, target) if TILES in s.mod.script()]


@needs_tiles
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w.kernel} by {w.strides}")
def test_bfloat16_and_int8(apply, close, window, threads):
    target, n = AMX.with_threads(threads), 35
    shape = (2, window.height, window.width, window.channels)
    x = rng.standard_normal(shape).astype(np.float32)
    w = rng.standard_normal((n, window.channels, *window.kernel)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    func = with_epilogue(conv_bf16(2, window, n, target.block), bias=True)
    found = of_tiles(func, target)
    assert len(found) in (2, 4)
    wanted = convolved(*(bf16_values(bf16_bits(a)) for a in (x, w)), window) + bias
    given = [bf16_bits(x), pack_conv_bf16(w, window, target.block), bias]
    for schedule in found[:: len(found) - 1]:
        close(apply(schedule, func, target, given)[0], wanted)

    q, zero = rng.integers(0, 256, shape), rng.integers(0, 256, window.channels)
    codes = rng.integers(-127, 128, w.shape).astype(np.int8)
    shift = static_shift(codes.reshape(n, -1), np.repeat(zero, window.taps))
    func = conv_int8(2, window, n, target.block)
    given = [q.astype(np.uint8), zero.astype(np.uint8), pack_conv_int8(codes, window, target.block)]
    given += [np.ones(n, np.float32), shift]
    for schedule in of_tiles(func, target)[:1]:
        (y,) = apply(schedule, func, target, given)
        np.testing.assert_array_equal(y, convolved(q - zero, codes, window))


def test_the_first_guess_is_tiles_with_their_instruction():
    for func, instruction in (
        (conv_bf16(1, WINDOWS[0], 64, AMX.block), "tdpbf16ps"),
        (conv_int8(1, WINDOWS[0], 64, AMX.block), "tdpbusd"),
    ):
        sch = schedules(func, AMX, limit=1)[0]
        code = tvm.compile(lower_tiles(sch.mod), target=AMX.tvm()).mod.inspect_source("asm")
        assert instruction in code


def test_none_where_tiles_cannot_be_or_would_be_empty():
    block = AMX.block
    assert not list(conv_tiles_amx(conv_bf16(1, WINDOWS[0], 64, 32), find("znver4")))
    images = [
        Window(9, 28, 64, (1, 1), strides=(2, 2)),  # read without a strip
        Window(7, 7, 64, (3, 3), padding=(1, 1, 1, 1)),  # 16 columns are more than a row and slack
        Window(9, 28, 2, (3, 3), padding=(1, 1, 1, 1)),  # 3 pairs of inputs in a step
    ]
    for window in images:
        assert not list(conv_tiles_amx(conv_bf16(1, window, 64, block), AMX))
    sparse = conv_sparse_int8(1, WINDOWS[0], 64, block, 20)
    assert not of_tiles(sparse, AMX)
