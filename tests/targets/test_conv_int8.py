"""int8 convolutions, dense and sparse: exact integers on odd shapes, padded by the codes of zero."""

from __future__ import annotations

import numpy as np
import pytest

from targets.errors import TargetError
from targets.kernels.conv_int8 import conv_int8, pack_conv_int8
from targets.kernels.conv_sparse_int8 import conv_sparse_int8, pack_conv_sparse_int8
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_int8 import static_shift
from targets.kernels.quantize_static import quantize_static_reference, quantizer
from targets.kernels.strip import strip_rows
from targets.kernels.window import Window
from tests.targets.references import convolved

WINDOWS = [
    Window(7, 9, 8, (3, 3), padding=(1, 1, 1, 1)),
    Window(11, 6, 4, (3, 3), strides=(2, 2), padding=(1, 0, 1, 1)),
    Window(9, 13, 12, (1, 1), strides=(2, 2)),
    Window(12, 10, 4, (5, 3), padding=(2, 1, 2, 1), dilation=(1, 2)),
    Window(6, 17, 4, (2, 4)),
]


def arrays(batch, window, n, seed=0):
    """(image of codes, codes of zero, OIHW codes)."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 256, (batch, window.height, window.width, window.channels))
    zero = rng.integers(0, 256, window.channels)
    w = rng.integers(-127, 128, (n, window.channels, *window.kernel))
    return q.astype(np.uint8), zero.astype(np.int32), w.astype(np.int8)


def shift_of(w, zero, window):
    return static_shift(w.reshape(len(w), -1), np.repeat(zero, window.taps))


def arguments(q, zero, packed, w, window, scale=None):
    n = len(w)
    scale = np.ones(n, np.float32) if scale is None else scale
    given = [zero.astype(np.uint8)] if window.padded else []
    return [q, *given, *packed, scale, shift_of(w, zero, window)]


@pytest.fixture(autouse=True)
def every_schedule_fits(caplog):
    yield
    said = [record.getMessage() for record in caplog.get_records("call")]
    assert not [message for message in said if "do not fit" in message]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w.kernel} by {w.strides}")
def test_dense_is_exact(run, target, window):
    batch, n = 2, 35
    q, zero, w = arrays(batch, window, n)
    func = conv_int8(batch, window, n, target.block)
    args = arguments(q, zero, [pack_conv_int8(w, window, target.block)], w, window)
    for (y,) in run(func, target, args):
        np.testing.assert_array_equal(y, convolved(q - zero.astype(np.float64), w, window))


def mask_of(window, n, nb, kept, seed=0):
    groups = window.channels // 4 * window.taps
    rng = np.random.default_rng(seed)
    return rng.random((-(-n // nb), groups)).argsort(axis=1) < kept


def masked(w, mask, nb):
    """The weight, zero outside a mask [blocks, (group of channels, position)]."""
    n, channels, kh, kw = w.shape
    wide = mask.reshape(len(mask), channels // 4, 1, kh, kw).repeat(4, axis=2)
    return w * wide.reshape(len(mask), channels, kh, kw).repeat(nb, axis=0)[:n]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w.kernel} by {w.strides}")
def test_sparse_is_exact(run, target, window):
    batch, n, nb = 2, 35, target.block
    q, zero, w = arrays(batch, window, n)
    kept = max(1, window.channels // 4 * window.taps // 2)
    mask = mask_of(window, n, nb, kept)
    w = masked(w, mask, nb)
    func = conv_sparse_int8(batch, window, n, nb, kept)
    args = arguments(q, zero, pack_conv_sparse_int8(w, mask, window, nb), w, window)
    for (y,) in run(func, target, args):
        np.testing.assert_array_equal(y, convolved(q - zero.astype(np.float64), w, window))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("height", [12, 13])
def test_strips_of_a_small_cache(run, target, batch, height):
    window, n, nb = Window(height, 17, 20, (3, 3), padding=(1, 1, 1, 1)), 19, target.block
    most = 2 << 10
    assert strip_rows(window, 1, most) == {12: 3, 13: 1}[height]
    q, zero, w = arrays(batch, window, n)
    args = arguments(q, zero, [pack_conv_int8(w, window, nb)], w, window)
    for (y,) in run(conv_int8(batch, window, n, nb, most), target, args):
        np.testing.assert_array_equal(y, convolved(q - zero.astype(np.float64), w, window))
    mask = mask_of(window, n, nb, 7)
    w = masked(w, mask, nb)
    args = arguments(q, zero, pack_conv_sparse_int8(w, mask, window, nb), w, window)
    for (y,) in run(conv_sparse_int8(batch, window, n, nb, 7, most), target, args):
        np.testing.assert_array_equal(y, convolved(q - zero.astype(np.float64), w, window))


@pytest.mark.parametrize("batch", [1, 2])
def test_threads(run, threaded, batch):
    """Of one image they share the strips' rows or the tiles, of two the images."""
    window, n, nb = WINDOWS[0], 20, threaded.block
    q, zero, w = arrays(batch, window, n)
    args = arguments(q, zero, [pack_conv_int8(w, window, nb)], w, window)
    for (y,) in run(conv_int8(batch, window, n, nb), threaded, args):
        np.testing.assert_array_equal(y, convolved(q - zero.astype(np.float64), w, window))
    mask = mask_of(window, n, nb, 5)
    w = masked(w, mask, nb)
    args = arguments(q, zero, pack_conv_sparse_int8(w, mask, window, nb), w, window)
    for (y,) in run(conv_sparse_int8(batch, window, n, nb, 5), threaded, args):
        np.testing.assert_array_equal(y, convolved(q - zero.astype(np.float64), w, window))


def test_nothing_saturates(compiled, target):
    window = Window(4, 5, 16, (3, 3), padding=(1, 1, 1, 1))
    q = np.full((1, 4, 5, 16), 255, np.uint8)
    w = np.full((17, 16, 3, 3), -127, np.int8)
    kernel = compiled(conv_int8(1, window, 17, target.block), target)
    for zero in (np.zeros(16, np.int32), np.full(16, 255, np.int32)):
        args = arguments(q, zero, [pack_conv_int8(w, window, target.block)], w, window)
        np.testing.assert_array_equal(
            kernel(args)[0], convolved(q - zero.astype(np.float64), w, window)
        )


def test_codes_for_the_next_layer_leave_the_kernel(run, target):
    """Bias, residual, ReLU and quantisation: between int8 layers only codes are in memory."""
    window, n = WINDOWS[0], 24
    rng = np.random.default_rng(4)
    q, zero, w = arrays(2, window, n)
    scale = rng.uniform(1e-4, 1e-3, n).astype(np.float32)
    bias, step = rng.standard_normal(n).astype(np.float32), rng.uniform(0.02, 0.1, n)
    func = conv_int8(2, window, n, target.block)
    func = with_epilogue(func, bias=True, activation="relu", codes=True)
    packed = [pack_conv_int8(w, window, target.block)]
    args = arguments(q, zero, packed, w, window, scale)
    y = np.maximum(
        convolved(q - zero.astype(np.float64), w, window) * scale.astype(np.float64) + bias, 0
    )
    wanted = quantize_static_reference(y.astype(np.float32), step, np.zeros(n))
    for (codes,) in run(func, target, [*args, bias, *quantizer(step, np.zeros(n))]):
        difference = np.abs(codes.astype(int) - wanted)
        assert difference.max() <= 1
        assert difference.mean() < 0.01


def test_packing_fills_up_channels(compiled, target):
    three, four = Window(6, 6, 3, (3, 3), padding=(1, 1, 1, 1)), WINDOWS[0].with_channels(4)
    four = Window(6, 6, 4, (3, 3), padding=(1, 1, 1, 1))
    q, zero, w = arrays(1, three, 16)
    wide = np.concatenate([q, np.full((1, 6, 6, 1), 77, np.uint8)], axis=-1)
    args = [wide, np.append(zero, 0).astype(np.uint8), pack_conv_int8(w, four, target.block)]
    args += [np.ones(16, np.float32), shift_of(w, zero, three)]
    y = compiled(conv_int8(1, four, 16, target.block), target)(args)[0]
    np.testing.assert_array_equal(y, convolved(q - zero.astype(np.float64), w, three))


def test_refusals():
    odd = Window(6, 6, 6, (3, 3))
    for make in (
        lambda: conv_int8(1, odd, 8, 16),
        lambda: conv_sparse_int8(1, odd, 8, 16, 3),
    ):
        with pytest.raises(TargetError, match="groups of four"):
            make()
