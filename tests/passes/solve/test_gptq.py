"""int8 rounding: on the grid, never worse than rounding to nearest, better on correlated inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.errors import PassError
from passes.solve.gptq import LEVELS, codes_of, quantize_rows
from passes.solve.gram import squared_error
from passes.solve.obs import kept_inputs, prune_inputs

seeds = st.integers(0, 2**32 - 1)


def correlated(rng, rows, k):
    causes = rng.standard_normal((rows, max(1, k // 3)))
    return causes @ rng.standard_normal((causes.shape[1], k)) + 0.3 * rng.standard_normal((rows, k))


def nearest(W):
    scale = np.maximum(np.abs(W).max(axis=1, keepdims=True) / LEVELS, 1e-30)
    return np.rint(W / scale) * scale


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 6), k=st.integers(1, 150), heavy=st.booleans())
def test_on_the_grid_and_no_row_worse_than_nearest(seed, n, k, heavy):
    rng = np.random.default_rng(seed)
    x = correlated(rng, 40, k)
    W = rng.standard_t(2, (n, k)) if heavy else rng.standard_normal((n, k))
    W = W.astype(np.float32)
    xx = x.T @ x
    got, scale = quantize_rows(W, xx)
    codes = codes_of(got, scale)
    assert np.abs(codes.astype(int)).max() <= LEVELS
    np.testing.assert_array_equal(codes * scale[:, None], got)
    wanted = squared_error(nearest(W) - W, xx)
    slack = 1e-5 * wanted + 1e-9 * squared_error(W, xx)  # scales are float32
    assert (squared_error(got - W, xx) <= wanted + slack).all()


@pytest.mark.parametrize("k", [60, 300])
def test_feedback_at_least_halves_the_error_on_correlated_inputs(k):
    rng = np.random.default_rng(0)
    x, W = correlated(rng, 2000, k), rng.standard_normal((32, k))
    xx = x.T @ x
    got, _ = quantize_rows(W, xx)
    assert squared_error(got - W, xx).sum() < 0.5 * squared_error(nearest(W) - W, xx).sum()


def test_clipping_pays_for_a_row_with_one_large_weight_on_a_silent_input():
    rng = np.random.default_rng(1)
    x, W = rng.standard_normal((500, 40)), rng.standard_normal((3, 40))
    x[:, 7] *= 1e-3
    W[:, 7] = 5.5
    xx = x.T @ x
    got, scale = quantize_rows(W, xx)
    assert (scale < 0.99 * 5.5 / LEVELS).all()
    assert squared_error(got - W, xx).sum() < 0.8 * squared_error(nearest(W) - W, xx).sum()


@pytest.mark.parametrize(("group", "block"), [(4, 3), (1, 4), (4, None)])
def test_removed_inputs_stay_zero_and_kept_ones_use_their_own_gram(group, block):
    rng = np.random.default_rng(2)
    x, W = correlated(rng, 500, 22), rng.standard_normal((7, 22))
    xx = x.T @ x
    pruned, mask = prune_inputs(W, xx, -(-22 // group) // 2, group, block)
    got, scale = quantize_rows(pruned, xx, mask, group=group, block=block)
    kept = np.repeat(kept_inputs(mask, group, 22), block or 7, axis=0)[:7]
    assert (got[~kept] == 0).all()
    codes_of(got, scale)
    error, plain = (squared_error(q - pruned, xx).sum() for q in (got, nearest(pruned)))
    assert error < plain
    alone, _ = quantize_rows(pruned[:1][:, kept[0]], xx[np.ix_(kept[0], kept[0])])
    np.testing.assert_array_equal(got[0, kept[0]], alone[0])


def test_degenerate_inputs():
    rng = np.random.default_rng(3)
    W = rng.standard_normal((3, 8)).astype(np.float32)
    W[1] = 0
    got, scale = quantize_rows(W, np.zeros((8, 8)))
    np.testing.assert_allclose(got, nearest(W), rtol=1e-6)
    assert (scale > 0).all()
    assert not got[1].any()
    x = rng.standard_normal((5, 1)) @ rng.standard_normal((1, 8))
    got, scale = quantize_rows(W, x.T @ x)
    assert np.isfinite(got).all()
    tiny, scale = quantize_rows(W * np.float32(1e-42), np.eye(8))
    assert np.isfinite(tiny).all()
    assert np.isfinite(scale).all()


def test_bad_inputs_are_named():
    with pytest.raises(PassError, match="weight holds"):
        quantize_rows(np.full((1, 2), np.nan), np.eye(2))
    with pytest.raises(PassError, match="does not fit the weight"):
        quantize_rows(np.ones((1, 2)), np.eye(3))
    with pytest.raises(PassError, match="not on its int8 grid"):
        codes_of(np.array([[0.5, 1.0]]), np.array([1.0]))
    with pytest.raises(PassError, match="not on its int8 grid"):
        codes_of(np.array([[128.0]]), np.array([1.0]))
