"""Vector-sparse convolutions against float64 of the weight with its zeros."""

from __future__ import annotations

import numpy as np
import pytest

from targets.errors import TargetError
from targets.kernels.conv_sparse import conv_sparse, pack_conv_sparse
from targets.kernels.epilogue import with_epilogue
from targets.kernels.strip import strip_rows
from targets.kernels.window import Window
from targets.target import find
from tests.targets.references import convolved

CASES = {
    "3x3": (2, Window(9, 11, 5, (3, 3), padding=(1, 1, 1, 1)), 70, 20),
    "stride 2, one kept": (1, Window(12, 17, 33, (3, 3), (2, 2), (0, 1, 1, 0)), 50, 1),
    "dilated": (1, Window(13, 12, 3, (3, 2), (2, 1), (1, 0, 3, 2), (2, 3)), 33, 11),
    "1x1 strided": (2, Window(9, 15, 33, (1, 1), (2, 2)), 37, 8),
    "one position": (3, Window(3, 3, 24, (3, 3)), 70, 50),
}


def arrays(batch, window, n, kept, nb, seed=0):
    """(x, a weight that is zero outside the mask, mask)."""
    rng = np.random.default_rng(seed)
    mask = rng.random((-(-n // nb), window.features)).argsort(axis=1) < kept
    w = rng.standard_normal((n, window.features)) * mask.repeat(nb, axis=0)[:n]
    x = rng.standard_normal((batch, window.height, window.width, window.channels))
    w = w.reshape(n, window.channels, *window.kernel)
    return x.astype(np.float32), w.astype(np.float32), mask


@pytest.mark.parametrize("name", CASES)
def test_conv_sparse(run, close, target, name):
    batch, window, n, kept = CASES[name]
    x, w, mask = arrays(batch, window, n, kept, target.block)
    values, index = pack_conv_sparse(w, mask, window, target.block)
    func = conv_sparse(batch, window, n, target.block, kept)
    for (y,) in run(func, target, [x, values, index]):
        close(y, convolved(x, w, window))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("channels", [20, 256])
def test_strips_of_a_small_cache(run, close, target, batch, channels):
    """The second with gaps behind each position."""
    window, n, kept = Window(12, 17, channels, (3, 3), padding=(1, 1, 1, 1)), 19, 40
    most = 400 * channels
    assert strip_rows(window, most=most) == 3
    x, w, mask = arrays(batch, window, n, kept, target.block)
    packed = pack_conv_sparse(w, mask, window, target.block)
    func = conv_sparse(batch, window, n, target.block, kept, most)
    for (y,) in run(func, target, [x, *packed]):
        close(y, convolved(x, w, window))


@pytest.mark.parametrize("nb", [8, 16])
def test_narrow_blocks(run, close, nb):
    batch, window, n, kept = CASES["3x3"]
    x, w, mask = arrays(batch, window, n, kept, nb)
    values, index = pack_conv_sparse(w, mask, window, nb)
    func = conv_sparse(batch, window, n, nb, kept)
    for (y,) in run(func, find("host"), [x, values, index]):
        close(y, convolved(x, w, window))


@pytest.mark.parametrize("name", ["3x3", "1x1 strided"])
def test_epilogue_with_threads(run, close, threaded, name):
    batch, window, n, kept = CASES[name]
    x, w, mask = arrays(batch, window, n, kept, threaded.block)
    bias = np.linspace(-1, 1, n, dtype=np.float32)
    z = convolved(x, w, window) + bias
    residual = np.random.default_rng(1).standard_normal(z.shape).astype(np.float32)
    kernel = conv_sparse(batch, window, n, threaded.block, kept)
    func = with_epilogue(kernel, bias=True, activation="relu", residual=True)
    packed = pack_conv_sparse(w, mask, window, threaded.block)
    for (y,) in run(func, threaded, [x, *packed, bias, residual]):
        close(y, np.maximum(z, 0) + residual)


def test_removed_inputs_are_never_read(compiled):
    """A channel that no block keeps may hold anything."""
    batch, window, n, _ = CASES["3x3"]
    rng = np.random.default_rng(2)
    kept = rng.random((3, 9 * (window.channels - 1))).argsort(axis=1) < 12
    mask = np.concatenate([np.zeros((3, 9), bool), kept], axis=1)
    x, w = arrays(batch, window, n, 12, 32)[:2]
    w = (w.reshape(n, -1) * 0 + mask.repeat(32, axis=0)[:n]).reshape(w.shape)
    kernel = compiled(conv_sparse(batch, window, n, 32, 12), find("host"))
    packed = pack_conv_sparse(w.astype(np.float32), mask, window, 32)
    before = kernel([x, *packed])[0]
    x[..., 0] = np.nan
    np.testing.assert_array_equal(kernel([x, *packed])[0], before)


def test_unbalanced_masks_are_refused():
    _, window, n, kept = CASES["3x3"]
    _, w, mask = arrays(1, window, n, kept, 32)
    mask[1, np.flatnonzero(mask[1])[0]] = False
    with pytest.raises(TargetError, match="from 19 to 20"):
        pack_conv_sparse(w, mask, window, 32)
