"""Pruning: the refit is least squares, the structure is kept, and the choice is a good one."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.errors import PassError
from passes.solve import removal
from passes.solve.gram import damped, squared_error
from passes.solve.obs import kept_inputs, prune_inputs, prune_path, refit

seeds = st.integers(0, 2**32 - 1)


def correlated(rng, rows, k):
    """Rows from fewer hidden causes than inputs, with scales that differ: like activations."""
    causes = rng.standard_normal((rows, max(1, k // 2)))
    x = causes @ rng.standard_normal((causes.shape[1], k)) + 0.3 * rng.standard_normal((rows, k))
    return x * np.exp(rng.standard_normal(k))


def loss(weight, W, xx):
    return squared_error(weight - W, xx).sum()


def by_magnitude(W, xx, keep, group, block):
    """Masks of the groups with the largest sum of squares of weight times input norm."""
    n, k = W.shape
    score = np.zeros((-(-n // block) * block, -(-k // group) * group))
    score[:n, :k] = W**2 * np.diag(xx)
    score = score.reshape(-1, block, score.shape[1] // group, group).sum(axis=(1, 3))
    mask = np.zeros_like(score, dtype=bool)
    np.put_along_axis(mask, np.argsort(-score, axis=1)[:, :keep], True, axis=1)
    return mask


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds, n=st.integers(1, 9), k=st.integers(1, 13), group=st.integers(1, 5), data=st.data()
)
def test_structure_and_least_squares_on_what_is_kept(seed, n, k, group, data):
    rng = np.random.default_rng(seed)
    groups = -(-k // group)
    keep, block = data.draw(st.integers(1, groups)), data.draw(st.integers(1, n + 2))
    x, W = correlated(rng, 40, k), rng.standard_normal((n, k))
    got, mask = prune_inputs(W, x.T @ x, keep, group, block, damping=1e-9)
    assert mask.shape == (-(-n // min(block, n)), groups)
    assert (mask.sum(axis=1) == keep).all()
    for row, kept in enumerate(np.repeat(kept_inputs(mask, group, k), min(block, n), axis=0)[:n]):
        assert (got[row, ~kept] == 0).all()
        best = x[:, kept] @ np.linalg.lstsq(x[:, kept], x @ W[row], rcond=None)[0]
        np.testing.assert_allclose(x @ got[row], best, atol=2e-4 * np.abs(x @ W[row]).max())


@settings(max_examples=25, deadline=None)
@given(seed=seeds, group=st.sampled_from([1, 2, 3]), block=st.sampled_from([2, 3, 8]))
def test_error_falls_with_every_group_kept_and_masks_are_nested(seed, group, block):
    rng = np.random.default_rng(seed)
    x, W = correlated(rng, 60, 11), rng.standard_normal((7, 11))
    xx = x.T @ x
    groups = -(-11 // group)
    path = prune_path(W, xx, range(1, groups + 1), group, block)
    errors = [loss(weight, W, damped(xx)) for weight, _ in path]
    assert all(more <= less * (1 + 1e-5) for less, more in pairwise(errors))
    assert errors[-1] <= 1e-9 * loss(0 * W, W, xx)
    for (_, fewer), (_, more) in pairwise(path):
        assert (more | ~fewer).all()


def test_a_path_gives_what_single_calls_give():
    rng = np.random.default_rng(0)
    x, W = correlated(rng, 300, 40), rng.standard_normal((10, 40))
    keeps = [30, 7, 19, 30]
    for (weight, mask), keep in zip(prune_path(W, x.T @ x, keeps, 1, 4), keeps, strict=True):
        assert (mask.sum(axis=1) == keep).all()
        alone, alone_mask = prune_inputs(W, x.T @ x, keep, 1, 4)
        if keep == max(keeps):
            np.testing.assert_array_equal(mask, alone_mask)
        assert loss(weight, W, x.T @ x) <= 1.05 * loss(alone, W, x.T @ x)


@pytest.mark.parametrize(
    ("group", "block", "share"),
    [(1, 1, 0.5), (1, 8, 0.8), (1, 24, 0.9), (4, 8, 0.9), (6, 24, 1.0)],
)
def test_better_than_magnitude_with_the_same_refit(group, block, share):
    better, total = 0.0, 0.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, W = correlated(rng, 400, 48), rng.standard_normal((24, 48))
        xx = x.T @ x
        keep = 48 // group // 2
        ours, _ = prune_inputs(W, xx, keep, group, block)
        mask = by_magnitude(W, xx, keep, group, block)
        better += loss(ours, W, xx)
        total += loss(refit(W, damped(xx), mask, group, block), W, xx)
    assert better < share * total


def test_near_the_best_of_all_subsets():
    ratios = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, W = correlated(rng, 100, 9), rng.standard_normal((4, 9))
        h = damped(x.T @ x)
        masks = np.zeros((126, 9), dtype=bool)
        for mask, chosen in zip(masks, combinations(range(9), 4), strict=True):
            mask[list(chosen)] = True
        best = min(loss(refit(W, h, m[None], 1, 4), W, h) for m in masks)
        ours, _ = prune_inputs(W, x.T @ x, 4, 1, 4)
        ratios.append(loss(ours, W, h) / best)
    assert min(ratios) >= 1 - 1e-5
    assert np.median(ratios) < 1.1
    assert max(ratios) < 2


@pytest.mark.parametrize("group", [1, 4])
def test_chunks_lose_nothing_against_one_at_a_time(monkeypatch, group):
    rng = np.random.default_rng(3)
    x, W = correlated(rng, 600, 160), rng.standard_normal((40, 160))
    xx = x.T @ x
    chunked, _ = prune_inputs(W, xx, 80 // group, group, 16)
    monkeypatch.setattr(removal, "CHUNK", 1e-9)
    single, _ = prune_inputs(W, xx, 80 // group, group, 16)
    assert loss(chunked, W, xx) < 1.01 * loss(single, W, xx)


def test_batches_and_compaction_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    x, W = correlated(rng, 300, 50), rng.standard_normal((30, 50))
    wanted, mask = prune_inputs(W, x.T @ x, 13, 1, 4)
    monkeypatch.setattr(removal, "BATCH_BYTES", 1)
    monkeypatch.setattr(removal, "COMPACT", 0.0)
    got, same = prune_inputs(W, x.T @ x, 13, 1, 4)
    np.testing.assert_array_equal(same, mask)
    np.testing.assert_array_equal(got, wanted)


def test_a_copy_of_an_input_stands_in_for_it():
    rng = np.random.default_rng(5)
    half = rng.standard_normal((200, 6))
    W = rng.standard_normal((3, 12))
    x = np.hstack([half, half])
    got, mask = prune_inputs(W, x.T @ x, 6, damping=1e-8)
    assert (mask[0, :6] ^ mask[0, 6:]).all()
    np.testing.assert_allclose(x @ got.T, x @ W.T, atol=1e-4)


def test_dead_inputs_go_first_and_dead_data_falls_back_to_the_weights():
    rng = np.random.default_rng(6)
    x, W = rng.standard_normal((50, 8)), rng.standard_normal((4, 8))
    x[:, [1, 5, 6]] = 0
    _, mask = prune_inputs(W, x.T @ x, 5)
    assert list(np.flatnonzero(mask[0])) == [0, 2, 3, 4, 7]
    got, mask = prune_inputs(W, np.zeros((8, 8)), 3)
    largest = np.sort(np.argsort(-np.square(W).sum(axis=0))[:3])
    assert list(np.flatnonzero(mask[0])) == list(largest)
    np.testing.assert_allclose(got[:, largest], W[:, largest], rtol=1e-6)
    zero, _ = prune_inputs(0 * W, x.T @ x, 3)
    assert not zero.any()


@pytest.mark.parametrize("rank", [1, 3])
def test_rank_deficient_gram_gives_finite_weights(rank):
    rng = np.random.default_rng(7)
    x = rng.standard_normal((100, rank)) @ rng.standard_normal((rank, 20))
    W = rng.standard_normal((6, 20))
    got, _ = prune_inputs(W, x.T @ x, 10, 1, 2)
    assert np.isfinite(got).all()
    assert loss(got, W, x.T @ x) < 0.05 * loss(0 * W, W, x.T @ x)


def test_bad_inputs_are_named():
    W, xx = np.ones((2, 4)), np.eye(4)
    with pytest.raises(PassError, match="does not fit the weight"):
        prune_inputs(W, np.eye(3), 1)
    for keep in (0, 3):
        with pytest.raises(PassError, match="out of range"):
            prune_inputs(W, xx, keep, group=2)
    with pytest.raises(PassError, match="weight holds"):
        prune_inputs(W * np.nan, xx, 1)
    with pytest.raises(PassError, match="Gram matrix holds"):
        prune_inputs(W, np.full((4, 4), np.inf), 1)
