"""Convolutions with a pattern for each kernel against float64 of the weight with its zeros."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from targets.errors import TargetError
from targets.kernels.cache import MOST_STRIP
from targets.kernels.conv_pattern import conv_pattern, pack_pattern
from targets.kernels.epilogue import with_epilogue
from targets.kernels.strip import strip_rows
from targets.kernels.window import Window
from tests.targets.references import convolved

CASES = {
    "3x3": (2, Window(9, 11, 5, (3, 3), padding=(1, 1, 1, 1)), 35, 4),
    "asymmetric 2x3": (1, Window(6, 17, 9, (2, 3), padding=(1, 0, 0, 2)), 18, 2),
    "dilated": (1, Window(11, 13, 3, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)), 20, 3),
    "one position": (3, Window(3, 3, 24, (3, 3)), 33, 1),
}


def arrays(batch, window, n, kept, taps):
    """(x, a weight that is zero outside the mask, mask): ``kept`` kernels an output."""
    rng = np.random.default_rng(0)
    kernels = rng.random((n, window.channels)).argsort(axis=1) < kept
    mask = rng.random((n, window.channels, window.taps)).argsort(axis=2) < taps
    mask &= kernels[..., None]
    x = rng.standard_normal((batch, window.height, window.width, window.channels))
    w = rng.standard_normal(mask.shape) * mask
    w = w.reshape(n, window.channels, *window.kernel)
    return x.astype(np.float32), w.astype(np.float32), mask.reshape(n, -1)


def kernel(batch, window, n, packed, strip=MOST_STRIP):
    values, _, _, table = packed
    return conv_pattern(batch, window, n, values.shape[1], *table.shape, strip)


@pytest.mark.parametrize("name", CASES)
def test_patterns(run, close, target, name):
    batch, window, n, kept = CASES[name]
    x, w, mask = arrays(batch, window, n, kept, 4)
    packed = pack_pattern(w, mask, window)
    for (y,) in run(kernel(batch, window, n, packed), target, [x, *packed]):
        close(y, convolved(x, w, window))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("height", [12, 13])
def test_strips_of_a_small_cache(run, close, target, batch, height):
    window, most = Window(height, 17, 20, (3, 3), padding=(1, 1, 1, 1)), 8000
    assert strip_rows(window, most=most) == {12: 3, 13: 1}[height]
    x, w, mask = arrays(batch, window, 19, 6, 4)
    packed = pack_pattern(w, mask, window)
    for (y,) in run(kernel(batch, window, 19, packed, most), target, [x, *packed]):
        close(y, convolved(x, w, window))


@pytest.mark.parametrize("batch", [1, 2])
def test_strips_and_epilogue_with_threads(run, close, threaded, batch):
    window = Window(55, 130, 20, (3, 3), padding=(1, 1, 1, 1))
    assert 1 < strip_rows(window) < 55
    x, w, mask = arrays(batch, window, 10, 6, 4)
    packed = pack_pattern(w, mask, window)
    bias = np.linspace(-1, 1, 10, dtype=np.float32)
    z = convolved(x, w, window) + bias
    func = with_epilogue(
        kernel(batch, window, 10, packed), bias=True, activation="relu", residual=True
    )
    residual = np.random.default_rng(1).standard_normal(z.shape).astype(np.float32)
    for (y,) in run(func, threaded, [x, *packed, bias, residual]):
        close(y, np.maximum(z, 0) + residual)


def test_kept_weights_are_stored_once_with_their_pattern():
    _, window, n, kept = CASES["3x3"]
    _, w, mask = arrays(1, window, n, kept, 4)
    values, channel, pattern, table = pack_pattern(w, mask, window)
    assert values.shape == (n, kept, 4)
    assert channel.shape == pattern.shape == (n, kept)
    assert table.shape == (len(np.unique(pattern)), 4)
    np.testing.assert_array_equal(np.sort(values, axis=None), np.sort(w[w != 0]))


def test_strides_are_refused():
    window = Window(9, 9, 5, (3, 3), (2, 2))
    with pytest.raises(TargetError, match="with strides"):
        conv_pattern(1, window, 8, 2, 3, 4)


def test_unbalanced_patterns_are_refused():
    _, window, n, kept = CASES["3x3"]
    _, w, mask = arrays(1, window, n, kept, 4)
    fewer = mask.copy()
    fewer[0, np.flatnonzero(mask[0])[0]] = False
    with pytest.raises(TargetError, match="3 to 4 taps"):
        pack_pattern(w, fewer, window)
    with pytest.raises(TargetError, match="0 to 0 kernels"):
        pack_pattern(w, mask & False, window)


def test_too_many_patterns_are_refused():
    window = Window(9, 9, 1, (11, 1), padding=(5, 0, 5, 0))
    some = list(combinations(range(11), 4))[:257]
    mask = np.zeros((257, 11), bool)
    for row, taps in zip(mask, some, strict=True):
        row[list(taps)] = True
    with pytest.raises(TargetError, match="257"):
        pack_pattern(np.ones((257, 1, 11, 1), np.float32), mask, window)
