"""Depthwise convolutions against float64, with and without borders, at channel counts no vector divides."""

from __future__ import annotations

import numpy as np
import pytest

from targets.kernels.conv_depthwise import conv_depthwise, pack_depthwise
from targets.kernels.epilogue import with_epilogue
from targets.kernels.window import Window
from targets.target import find
from tests.targets.references import convolved

CASES = {
    "3x3": (2, Window(9, 15, 48, (3, 3), padding=(1, 1, 1, 1))),
    "stride 2, asymmetric": (1, Window(12, 17, 24, (3, 3), (2, 2), (0, 1, 1, 0))),
    "5x5 stride 2": (1, Window(13, 11, 32, (5, 5), (2, 2), (2, 2, 2, 2))),
    "dilated": (1, Window(11, 13, 8, (3, 2), (1, 1), (2, 1, 2, 3), (2, 3))),
    "odd channels": (2, Window(6, 5, 33, (3, 3), padding=(1, 1, 1, 1))),
    "no border": (1, Window(8, 19, 16, (3, 3))),
    "all border": (1, Window(2, 1, 40, (7, 7), padding=(3, 3, 3, 3))),
}


def arrays(batch, window):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, window.height, window.width, window.channels))
    w = rng.standard_normal((window.channels, 1, *window.kernel))
    return x.astype(np.float32), w.astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_depthwise(run, close, target, name):
    batch, window = CASES[name]
    x, w = arrays(batch, window)
    for (y,) in run(conv_depthwise(batch, window), target, [x, pack_depthwise(w)]):
        close(y, convolved(x, w, window, window.channels))


@pytest.mark.parametrize("name", ["3x3", "odd channels"])
def test_epilogue_with_threads(run, close, threaded, name):
    batch, window = CASES[name]
    x, w = arrays(batch, window)
    bias = np.linspace(-2, 2, window.channels, dtype=np.float32)
    z = convolved(x, w, window, window.channels) + bias
    residual = np.random.default_rng(1).standard_normal(z.shape).astype(np.float32)
    kernel = conv_depthwise(batch, window)
    func = with_epilogue(kernel, bias=True, activation="silu", residual=True)
    for (y,) in run(func, threaded, [x, pack_depthwise(w), bias, residual]):
        close(y, z / (1 + np.exp(-z)) + residual)


def test_taps_outside_the_image_are_never_read(compiled):
    """What lies around the image in memory may be anything: channels of NaN beside the one compared."""
    window = Window(3, 4, 1, (3, 3), padding=(1, 1, 1, 1))
    x, w = arrays(3, window)
    kernel = compiled(conv_depthwise(3, window), find("host"))
    x[[0, 2]] = np.nan
    got = kernel([x, pack_depthwise(w)])[0][1:2]
    np.testing.assert_allclose(
        got, convolved(x[1:2], w, window, window.channels), rtol=1e-5, atol=1e-6
    )
