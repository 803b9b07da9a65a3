"""Fewer tokens on GPUs: the same ones as the reference keeps, padding, ties and NaN included."""

from __future__ import annotations

import numpy as np
import pytest

from targets.gpu_kernels.merge_tokens import merge_tokens_gpu
from targets.kernels.merge_tokens import merge_reference


def tokens(batch, seq, width, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, seq, width)).astype(np.float32)
    x[:, seq // 2] = x[:, 0] * 1.5 + 0.01 * x[:, 1]  # one that is like another
    bias = np.zeros((batch, 1, 1, seq), np.float32)
    bias[0, ..., seq - seq // 4 :] = -1e9
    size = rng.integers(1, 4, (batch, seq)).astype(np.float32)
    return x, bias, size


@pytest.mark.parametrize(
    ("seq", "keep", "width"), [(13, 7, 24), (21, 20, 37), (9, 1, 8), (6, 6, 5)]
)
def test_merging(run_gpu, close, gpu, seq, keep, width):
    x, bias, size = tokens(2, seq, width)
    func = merge_tokens_gpu(2, seq, keep, width)
    for y, new_bias, new_size, place in run_gpu(func, gpu, [x, bias, size]):
        for n in range(2):
            wanted = merge_reference(x[n].astype(np.float64), bias[n, 0, 0], size[n], keep)
            real = bias[n, 0, 0] == 0
            np.testing.assert_array_equal(place[n][real], wanted.place[real])
            np.testing.assert_allclose(new_size[n], wanted.size)
            np.testing.assert_allclose(new_bias[n, 0, 0], wanted.bias, rtol=1e-5, atol=1e-5)
            close(y[n], wanted.y, 5e-6)


def test_places_are_valid_whatever_the_tokens_are(run_gpu, gpu):
    x, bias, size = tokens(2, 13, 24)
    x[0, 3], x[1, :] = np.nan, np.nan
    for _, _, _, place in run_gpu(merge_tokens_gpu(2, 13, 5, 24), gpu, [x, bias, size]):
        assert place.min() >= 0
        assert place.max() < 5
        assert all(set(range(5)) <= set(row) for row in place)


def test_more_than_there_are_cannot_be_kept():
    with pytest.raises(ValueError, match="14 of 13"):
        merge_tokens_gpu(1, 13, 14, 8)
