"""Clustered outputs: a permutation, and one that makes vector sparsity lose less."""

from __future__ import annotations

import numpy as np
import pytest

from passes.errors import PassError
from passes.solve.gram import relative_error
from passes.solve.obs import prune_inputs
from passes.solve.order import cluster_outputs


def test_outputs_that_read_the_same_inputs_come_together():
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(np.arange(4), 8))
    W = 0.05 * rng.standard_normal((32, 20))
    for row, kind in zip(W, kinds, strict=True):
        row[kind * 5 : kind * 5 + 5] += rng.standard_normal(5)
    x = rng.standard_normal((300, 20))
    xx = x.T @ x
    order = cluster_outputs(W, xx, 8)
    assert sorted(order) == list(range(32))
    before, after = (
        relative_error(prune_inputs(w, xx, 5, block=8)[0], w, xx) for w in (W, W[order])
    )
    assert after < 0.3 * before


@pytest.mark.parametrize(("n", "block"), [(1, 8), (8, 8), (9, 8), (30, 7)])
def test_any_number_of_outputs(n, block):
    W = np.random.default_rng(1).standard_normal((n, 6))
    W[0] = 0
    order = cluster_outputs(W, np.eye(6), block)
    assert sorted(order) == list(range(n))
    np.testing.assert_array_equal(order, cluster_outputs(W, np.eye(6), block))


def test_nan_is_named():
    with pytest.raises(PassError, match="weight holds"):
        cluster_outputs(np.full((4, 2), np.nan), np.eye(2), 2)
