"""Vector-sparse int8 products: exact integer sums over the groups that are kept."""

from __future__ import annotations

import numpy as np
import pytest

from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_int8 import static_shift
from targets.kernels.linear_sparse_int8 import (
    pack_sparse_int8,
    sparse_int8,
    static_sparse_int8,
)

CASES = [((1,), 30, 35, 3), ((13,), 67, 50, 17), ((2, 17), 52, 100, 1)]


def arrays(lead, k, n, kept, nb):
    """(q, zero, a weight that is zero outside the mask, mask)."""
    rng = np.random.default_rng(0)
    groups = -(-k // 4)
    mask = rng.random((-(-n // nb), groups)).argsort(axis=1) < kept
    w = rng.integers(-127, 128, (n, k)) * mask.repeat(nb, 0)[:n].repeat(4, 1)[:, :k]
    q = rng.integers(0, 256, (*lead, 4 * groups)).astype(np.uint8)
    return q, rng.integers(0, 256, lead).astype(np.int32), w.astype(np.int8), mask


def exact(q, zero, w):
    return (q[..., : w.shape[1]].astype(np.int64) - zero[..., None]) @ w.T.astype(np.int64)


def arguments(q, zero, w, mask, nb):
    values, index, wsum = pack_sparse_int8(w, mask, nb)
    ones = np.ones(zero.shape, np.float32), np.ones(len(w), np.float32)
    return [q, ones[0], zero, values, index, ones[1], wsum]


@pytest.mark.parametrize(("lead", "k", "n", "kept"), CASES)
def test_sparse_int8_is_exact(run, target, lead, k, n, kept):
    q, zero, w, mask = arrays(lead, k, n, kept, target.block)
    func = sparse_int8(lead, k, n, target.block, kept)
    for (y,) in run(func, target, arguments(q, zero, w, mask, target.block)):
        np.testing.assert_array_equal(y, exact(q, zero, w))


def test_threads_and_bias(run, close, threaded):
    lead, k, n, kept = (130,), 33, 41, 4
    q, zero, w, mask = arrays(lead, k, n, kept, threaded.block)
    args = arguments(q, zero, w, mask, threaded.block)
    bias = np.linspace(-1e4, 1e4, n, dtype=np.float32)
    func = with_epilogue(sparse_int8(lead, k, n, threaded.block, kept), bias=True)
    for (y,) in run(func, threaded, [*args, bias]):
        close(y, exact(q, zero, w) + bias.astype(np.float64), 1e-6)


def test_nothing_saturates(compiled, target):
    k, n, kept = 64, 33, 16
    q, zero = np.full((5, k), 255, np.uint8), np.array([0, 255, 1, 254, 128], np.int32)
    w, mask = np.full((n, k), -127, np.int8), np.ones((-(-n // target.block), 16), bool)
    kernel = compiled(sparse_int8((5,), k, n, target.block, kept), target)
    y = kernel(arguments(q, zero, w, mask, target.block))[0]
    np.testing.assert_array_equal(y, exact(q, zero, w))


@pytest.mark.parametrize(("lead", "k", "n", "kept"), CASES)
def test_static_zero_points_of_each_input(run, target, lead, k, n, kept):
    q, _, w, mask = arrays(lead, k, n, kept, target.block)
    values, index, _ = pack_sparse_int8(w, mask, target.block)
    zero = np.random.default_rng(1).integers(0, 256, k).astype(np.int32)
    func = static_sparse_int8(lead, k, n, target.block, kept)
    args = [q, values, index, np.ones(n, np.float32), static_shift(w, zero)]
    wanted = (q[..., :k].astype(np.int64) - zero) @ w.T.astype(np.int64)
    for (y,) in run(func, target, args):
        np.testing.assert_array_equal(y, wanted)
