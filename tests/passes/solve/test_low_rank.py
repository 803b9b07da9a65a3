"""Low-rank factors: the best for the inputs they were given, in float64, at every rank."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.errors import PassError
from passes.solve.gram import damped, squared_error
from passes.solve.low_rank import factorize, factorize_path

SHAPES = [(9, 14), (14, 9), (11, 11), (1, 7), (7, 1)]


def problem(n, k, seed=0, rows=200):
    """A weight and the Gram matrix of correlated inputs of very different sizes."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((rows, max(1, k // 2)))
    x = causes @ rng.standard_normal((causes.shape[1], k)) + 0.2 * rng.standard_normal((rows, k))
    x *= np.geomspace(0.05, 4, k)
    return rng.standard_normal((n, k)), x.T @ x


def alternating(W, h, rank, seed, rounds=400):
    """Brute force: each factor solved exactly for the other, from a random start."""
    rng = np.random.default_rng(seed)
    second = rng.standard_normal((len(W), rank))
    for _ in range(rounds):
        first = np.linalg.solve(second.T @ second, second.T @ W)
        second = W @ h @ first.T @ np.linalg.inv(first @ h @ first.T)
    return second @ first


@pytest.mark.parametrize(("n", "k"), SHAPES[:3])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_nothing_of_the_rank_is_better(n, k, rank):
    W, xx = problem(n, k)
    h = damped(xx)
    got = squared_error(factorize(W, xx, rank).product - W, h).sum()
    singular = np.linalg.svd(W @ np.linalg.cholesky(h), compute_uv=False)
    assert got == pytest.approx(np.square(singular[rank:]).sum(), rel=1e-5)
    for seed in range(3):
        assert got <= squared_error(alternating(W, h, rank, seed) - W, h).sum() * (1 + 1e-5)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_full_rank_is_the_weight_itself(n, k):
    W, xx = problem(n, k)
    np.testing.assert_allclose(factorize(W, xx, min(n, k)).product, W, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 20), k=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_more_rank_is_never_worse_and_all_ranks_are_one_path(n, k, seed):
    W, xx = problem(n, k, seed)
    ranks = list(range(1, min(n, k) + 1))
    path = factorize_path(W, xx, ranks)
    errors = [squared_error(f.product - W, damped(xx)).sum() for f in path]
    energy = squared_error(W, damped(xx)).sum()
    assert all(b <= a + 1e-9 * energy for a, b in pairwise(errors))
    for rank, factors in zip(ranks, path, strict=True):
        assert (factors.first.shape, factors.second.shape) == ((rank, k), (n, rank))
        np.testing.assert_array_equal(factors.first, path[-1].first[:rank])
        np.testing.assert_array_equal(factors.second, path[-1].second[:, :rank])


def test_inputs_decide_what_is_kept():
    W = np.diag([10.0, 1.0])
    xx = np.diag([1.0, 1e6])  # the small weight's input is the loud one
    got = factorize(W, xx, 1, damping=1e-9).product
    np.testing.assert_allclose(got, np.diag([0.0, 1.0]), atol=1e-6)


@pytest.mark.parametrize(("n", "k"), SHAPES[:2])
def test_zeros(n, k):
    W, xx = problem(n, k)
    for weight, gram in ((0 * W, xx), (W, 0 * xx), (0 * W, 0 * xx)):
        factors = factorize(weight, gram, 4)
        assert np.isfinite(factors.first).all()
        assert np.isfinite(factors.second).all()
    assert (factorize(0 * W, xx, 4).product == 0).all()
    # inputs that were never seen leave the plain SVD
    singular = np.linalg.svd(W, compute_uv=False)
    error = np.square(factorize(W, 0 * xx, 4).product - W).sum()
    assert error == pytest.approx(np.square(singular[4:]).sum(), rel=1e-5)


@pytest.mark.parametrize("rank", [0, 6, -1])
def test_ranks_that_cannot_be(rank):
    W, xx = problem(5, 8)
    with pytest.raises(PassError, match="rank") as caught:
        factorize(W, xx, rank)
    assert caught.value.allowed == "1 to 5"


def test_what_does_not_fit():
    W, xx = problem(5, 8)
    with pytest.raises(PassError, match="Gram"):
        factorize(W, xx[:7, :7], 2)
    with pytest.raises(PassError, match="no numbers"):
        factorize(np.full_like(W, np.nan), xx, 2)
