"""Weights of few values: as many as allowed, zero among them, and as near as the inputs ask for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.errors import PassError
from passes.solve.codebook import cluster, codebook
from passes.solve.gram import squared_error


def problem(seed, n, k, rows=300):
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((rows, max(1, k // 3)))
    x = causes @ rng.standard_normal((causes.shape[1], k)) + 0.3 * rng.standard_normal((rows, k))
    return rng.standard_normal((n, k)), x.T @ x


def nearest(W, values):
    return values[np.abs(W[..., None] - values).argmin(axis=-1)]


def loss(W, values, importance):
    return (np.square(nearest(W, values) - W) * importance).sum()


def lloyd(W, importance, count, seed):
    """Brute force: weighted k-means from a random start, zero held."""
    rng = np.random.default_rng(seed)
    centres = np.append(rng.choice(W.ravel(), count - 1, replace=False), 0.0)
    share = np.broadcast_to(importance, W.shape)
    for _ in range(100):
        which = np.abs(W[..., None] - centres).argmin(axis=-1)
        for c in range(count - 1):
            mine = which == c
            if mine.any():
                centres[c] = np.average(W[mine], weights=share[mine])
    return centres


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), k=st.integers(1, 60),
    count=st.sampled_from([2, 3, 16, 256]), block=st.sampled_from([None, 1, 4]),
)  # fmt: skip
def test_few_values_in_every_block(seed, n, k, count, block):
    W, xx = problem(seed, n, k)
    W[0, : k // 2] = 0
    got = cluster(W, xx, count, block)
    assert got.dtype == np.float32
    step = block or n
    for start in range(0, n, step):
        part = got[start : start + step]
        values = np.unique(np.append(part, np.float32(0)).view(np.uint32))
        assert len(values) <= count
        assert not (part.view(np.uint32) == 1 << 31).any()  # no -0.0, which is a value of its own


@pytest.mark.parametrize("count", [4, 16, 64])
def test_as_good_as_many_random_starts(count):
    rng = np.random.default_rng(1)
    W, importance = rng.standard_t(5, (30, 40)), rng.uniform(0.1, 3, 40)
    got = loss(W, codebook(W, importance, count), importance)
    best = min(loss(W, lloyd(W, importance, count, seed), importance) for seed in range(4))
    assert got <= 1.001 * best


@pytest.mark.parametrize("largest", [1, 200])
def test_outliers_take_few_values_from_the_rest(largest):
    rng = np.random.default_rng(10)
    W = rng.standard_normal((200, 300))
    W[0, 0], W[1, 1] = -largest, largest
    values = codebook(W, np.ones(300), 256)
    # a Gaussian of 256 values loses 4e-5 of its energy (Panter & Dite: 2.72 / 256^2)
    assert loss(W, values, 1) / W.size < 5e-5


def test_weights_that_have_few_values_are_kept():
    rng = np.random.default_rng(2)
    values = np.array([-2.5, -1, 0, 0.25, 3, 7], np.float32)
    W = rng.choice(values, (20, 30))
    np.testing.assert_allclose(codebook(W, np.ones(30), 16), values, rtol=1e-6)
    np.testing.assert_allclose(cluster(W, problem(2, 1, 30)[1], 16), W, rtol=1e-6)


def test_loud_inputs_get_the_near_values():
    rng = np.random.default_rng(3)
    W = np.concatenate([rng.uniform(1, 2, (50, 10)), rng.uniform(-9, -5, (50, 10))], axis=1)
    loud = np.repeat([1e4, 1e-4], 10)
    values = codebook(W, loud, 9)
    assert ((values > 0.9) & (values < 2.1)).sum() >= 6
    assert loss(W[:, :10], values, 1) < 0.2 * loss(W[:, :10], codebook(W, np.ones(20), 9), 1)


def test_feedback_pays_on_correlated_inputs():
    W, xx = problem(4, 24, 90, 2000)
    got = cluster(W, xx, 16)
    plain = nearest(W, codebook(W, np.diag(xx), 16))
    assert squared_error(got - W, xx).sum() < 0.5 * squared_error(plain - W, xx).sum()


def test_without_a_gram_the_nearest_values_are_taken():
    W, _ = problem(8, 10, 40)
    values = codebook(W, np.ones(40), 16)
    np.testing.assert_array_equal(cluster(W, None, 16), nearest(W, values))


def test_more_values_lose_less_and_so_do_more_codebooks():
    W, xx = problem(5, 32, 60)
    W *= np.exp(np.random.default_rng(5).standard_normal((32, 1)))
    errors = [squared_error(cluster(W, xx, c) - W, xx).sum() for c in (4, 16, 64, 256)]
    assert all(b < 0.5 * a for a, b in pairwise(errors))
    assert squared_error(cluster(W, xx, 16, 8) - W, xx).sum() < errors[1]


def test_degenerate_weights():
    W, xx = problem(6, 4, 12)
    assert not cluster(0 * W, xx, 16).any()
    assert np.unique(cluster(0 * W + 3, xx, 2)).tolist() == [3]
    assert np.isfinite(cluster(W, 0 * xx, 4)).all()
    for size in (1e-40, 1e30):
        assert np.isfinite(cluster(W * size, xx, 4)).all()


def test_what_does_not_fit():
    W, xx = problem(7, 4, 12)
    for count in (1, 257):
        with pytest.raises(PassError, match="codebook"):
            cluster(W, xx, count)
    with pytest.raises(PassError, match="Gram"):
        cluster(W, xx[:5, :5], 16)
    with pytest.raises(PassError, match="no numbers"):
        cluster(W * np.nan, xx, 16)
