"""Vector-sparse float32 products against float64 of the weight with its zeros."""

from __future__ import annotations

import numpy as np
import pytest

from targets.errors import TargetError
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_sparse import kept_index, pack_sparse, sparse

CASES = [((1,), 30, 35, 7), ((13,), 67, 50, 66), ((2, 17), 50, 100, 1)]


def arrays(lead, k, n, kept, nb, seed=0):
    """(x, a weight that is zero outside the mask, mask)."""
    rng = np.random.default_rng(seed)
    blocks = -(-n // nb)
    mask = rng.random((blocks, k)).argsort(axis=1) < kept
    w = rng.standard_normal((n, k)) * mask.repeat(nb, axis=0)[:n]
    return rng.standard_normal((*lead, k)).astype(np.float32), w.astype(np.float32), mask


def product(x, w):
    return x.astype(np.float64) @ w.T.astype(np.float64)


@pytest.mark.parametrize(("lead", "k", "n", "kept"), CASES)
def test_sparse(run, close, target, lead, k, n, kept):
    x, w, mask = arrays(lead, k, n, kept, target.block)
    values, index = pack_sparse(w, mask, target.block)
    for (y,) in run(sparse(lead, k, n, target.block, kept), target, [x, values, index]):
        close(y, product(x, w))


def test_sparse_with_threads_and_epilogue(run, close, threaded):
    lead, k, n, kept = (130,), 33, 41, 9
    x, w, mask = arrays(lead, k, n, kept, threaded.block)
    values, index = pack_sparse(w, mask, threaded.block)
    bias = np.linspace(-1, 1, n, dtype=np.float32)
    residual = arrays(lead, n, 1, 1, 1, seed=1)[0]
    func = with_epilogue(sparse(lead, k, n, threaded.block, kept), bias=True, residual=True)
    for (y,) in run(func, threaded, [x, values, index, bias, residual]):
        close(y, product(x, w) + bias + residual)


def test_removed_inputs_are_never_read(compiled, target):
    x, w, mask = arrays((3,), 40, 20, 11, target.block)
    values, index = pack_sparse(w, mask, target.block)
    kernel = compiled(sparse((3,), 40, 20, target.block, 11), target)
    before = kernel([x, values, index])[0]
    x[:, ~mask.any(axis=0)] = np.nan
    np.testing.assert_array_equal(kernel([x, values, index])[0], before)


def test_unbalanced_masks_are_refused():
    mask = np.ones((2, 5), bool)
    np.testing.assert_array_equal(kept_index(mask), [[0, 1, 2, 3, 4]] * 2)
    mask[1, 2] = False
    with pytest.raises(TargetError, match="from 4 to 5"):
        kept_index(mask)
    with pytest.raises(TargetError):
        kept_index(np.zeros((2, 5), bool))
