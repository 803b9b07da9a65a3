"""Dense convolutions against float64, at sizes that no tile or block divides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from targets.errors import TargetError
from targets.kernels.cache import MOST_STRIP, strip_bytes
from targets.kernels.conv import conv, pack_conv
from targets.kernels.epilogue import with_epilogue
from targets.kernels.strip import rows_in, strip_rows
from targets.kernels.window import Window
from targets.target import find
from tests.targets.references import convolved

WINDOWS = {
    "3x3 of 5 channels": (2, Window(9, 11, 5, (3, 3), padding=(1, 1, 1, 1)), 35),
    "asymmetric, stride 2": (1, Window(12, 17, 33, (3, 3), (2, 2), (0, 1, 1, 0)), 50),
    "dilated": (2, Window(11, 13, 8, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)), 40),
    "dilated, uneven": (1, Window(13, 12, 3, (3, 2), (2, 1), (1, 0, 3, 2), (2, 3)), 33),
    "7x7 stride 2 of 3 channels": (1, Window(21, 23, 3, (7, 7), (2, 2), (3, 3, 3, 3)), 40),
    "5x5 unpadded": (1, Window(9, 19, 4, (5, 5)), 16),
    "1x1 strided": (2, Window(9, 15, 33, (1, 1), (2, 2)), 37),
    "1x1 padded": (1, Window(4, 6, 7, (1, 1), (1, 1), (1, 0, 0, 1)), 12),
    "one position": (3, Window(3, 3, 24, (3, 3)), 70),
    "one column": (1, Window(17, 1, 16, (3, 1), padding=(1, 0, 1, 0)), 32),
    "stride beyond the kernel": (1, Window(10, 13, 6, (2, 2), (3, 3), (1, 1, 0, 0)), 9),
}


def arrays(batch, window, n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, window.height, window.width, window.channels))
    w = rng.standard_normal((n, window.channels, *window.kernel))
    return x.astype(np.float32), w.astype(np.float32)


@pytest.mark.parametrize("name", WINDOWS)
def test_conv(run, close, target, name):
    batch, window, n = WINDOWS[name]
    x, w = arrays(batch, window, n)
    packed = pack_conv(w, window, target.block)
    for (y,) in run(conv(batch, window, n, target.block), target, [x, packed]):
        close(y, convolved(x, w, window))


@pytest.mark.parametrize("name", ["3x3 of 5 channels", "asymmetric, stride 2", "1x1 strided"])
def test_conv_with_threads(run, close, threaded, name):
    batch, window, n = WINDOWS[name]
    x, w = arrays(batch, window, n)
    packed = pack_conv(w, window, threaded.block)
    for (y,) in run(conv(batch, window, n, threaded.block), threaded, [x, packed]):
        close(y, convolved(x, w, window))


@pytest.mark.parametrize("nb", [8, 16, 32])
def test_every_schedule(run, close, nb):
    window = Window(6, 17, 19, (3, 3), padding=(1, 1, 1, 1))
    x, w = arrays(1, window, 45)
    func = conv(1, window, 45, nb)
    results = [y for (y,) in run(func, find("host"), [x, pack_conv(w, window, nb)], every=True)]
    assert len(results) >= 6
    for y in results:
        close(y, convolved(x, w, window))


SHAPES = [(12, 17, 20), (13, 9, 33), (8, 21, 128)]


def several_strips(height=60):
    """A window on images so wide that a strip holds few rows of them."""
    window = Window(height, 130, 20, (3, 3), padding=(1, 1, 1, 1))
    assert 1 < strip_rows(window) < height
    return window


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_strips(run, close, threads):
    window = several_strips()
    x, w = arrays(1, window, 33)
    func = with_epilogue(conv(1, window, 33, 32), activation="relu")
    for (y,) in run(func, find("host", threads), [x, pack_conv(w, window, 32)]):
        close(y, np.maximum(convolved(x, w, window), 0))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_strips_of_a_small_cache(run, close, target, batch, shape):
    """Strips of a few rows, of one row where the height is prime, and of what no cache holds."""
    window = Window(*shape, (3, 3), padding=(1, 1, 1, 1))
    small = replace(target, l2_bytes=16 << 10)
    rows = strip_rows(window, most=strip_bytes(small))
    assert rows < strip_rows(window, most=strip_bytes(replace(target, l2_bytes=1 << 20)))
    x, w = arrays(batch, window, 19)
    func = conv(batch, window, 19, small.block, strip_bytes(small))
    for (y,) in run(func, small, [x, pack_conv(w, window, small.block)]):
        close(y, convolved(x, w, window))


def test_strips_are_bounded():
    for size, channels in [(224, 64), (112, 128), (113, 3), (7, 512), (1, 9), (56, 64)]:
        window = Window(size, size, channels, (3, 3), padding=(1, 1, 1, 1))
        rows = strip_rows(window)
        assert window.out_height % rows == 0
        assert rows_in(window, rows) * (size + 2) * channels * 4 <= MOST_STRIP or rows <= 2


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_epilogues_are_fused(run, close, target, activation):
    batch, window, n = WINDOWS["3x3 of 5 channels"]
    x, w = arrays(batch, window, n)
    bias = np.linspace(-2, 2, n, dtype=np.float32)
    z = convolved(x, w, window) + bias
    residual = np.random.default_rng(1).standard_normal(z.shape).astype(np.float32)
    wanted = {
        "relu": np.maximum(z, 0),
        "gelu": z * 0.5 * (1 + erf(z / np.sqrt(2))),
        "silu": z / (1 + np.exp(-z)),
    }[activation]
    kernel = conv(batch, window, n, target.block)
    func = with_epilogue(kernel, bias=True, activation=activation, residual=True)
    for (y,) in run(func, target, [x, pack_conv(w, window, target.block), bias, residual]):
        close(y, wanted + residual)


@pytest.mark.parametrize("name", ["3x3 of 5 channels", "1x1 strided"])
def test_epilogue_with_threads(run, close, threaded, name):
    batch, window, n = WINDOWS[name]
    x, w = arrays(batch, window, n)
    bias = np.linspace(-2, 2, n, dtype=np.float32)
    z = convolved(x, w, window) + bias
    residual = np.random.default_rng(1).standard_normal(z.shape).astype(np.float32)
    kernel = conv(batch, window, n, threaded.block)
    func = with_epilogue(kernel, bias=True, residual=True)
    for (y,) in run(func, threaded, [x, pack_conv(w, window, threaded.block), bias, residual]):
        close(y, z + residual)


def test_zeros_and_extremes(compiled, target):
    window = Window(5, 6, 7, (3, 3), padding=(1, 1, 1, 1))
    kernel = compiled(conv(1, window, 9, target.block), target)
    x, w = arrays(1, window, 9)
    assert (kernel([0 * x, pack_conv(w, window, target.block)])[0] == 0).all()
    one = np.zeros_like(w)
    one[:, 2, 1, 1] = 8
    large = np.where(x > 0, 1e37, -1e37).astype(np.float32)
    got = kernel([large, pack_conv(one, window, target.block)])[0]
    np.testing.assert_array_equal(got, np.repeat(large[..., 2:3], 9, axis=3) * 8)
    inf = kernel([large, pack_conv(one * 1e3, window, target.block)])[0]
    assert np.isinf(inf).all()


sizes = st.integers(1, 17)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    size=st.tuples(sizes, sizes),
    channels=st.sampled_from([1, 3, 5, 16, 33]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    n=st.integers(1, 40),
    strip=st.sampled_from([1, 1500, 6000, MOST_STRIP]),
)
def test_any_window(compiled, close, size, channels, kernel, strides, padding, dilation, n, strip):
    try:
        window = Window(*size, channels, kernel, strides, padding, dilation)
    except TargetError:
        return
    target = find("host")
    x, w = arrays(2, window, n)
    y = compiled(conv(2, window, n, 16, strip), target)([x, pack_conv(w, window, 16)])[0]
    close(y, convolved(x, w, window))


def test_windows_count_their_outputs():
    window = Window(224, 224, 3, (7, 7), (2, 2), (3, 3, 3, 3))
    assert (window.out_height, window.out_width) == (112, 112)
    assert (window.taps, window.features) == (49, 147)
    assert Window(10, 9, 1, (3, 2), (2, 3), (1, 0, 0, 2), (2, 4)).span == (5, 5)


def test_impossible_windows_are_refused():
    with pytest.raises(TargetError, match="larger than the padded image"):
        Window(4, 9, 3, (5, 5))
    with pytest.raises(TargetError, match="impossible size"):
        Window(4, 9, 0, (3, 3))
    with pytest.raises(TargetError, match="impossible size"):
        Window(4, 9, 3, (3, 3), padding=(0, -1, 0, 0))
