"""Pattern pruning: the structure is kept, the refit is least squares, and the choice is a good one."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.errors import PassError
from passes.solve.gram import damped, squared_error
from passes.solve.obs import refit
from passes.solve.patterns import (
    natural_entries,
    natural_patterns,
    pattern_path,
    prune_patterns,
)

seeds = st.integers(0, 2**32 - 1)
kernels = st.sampled_from([(3, 3), (5, 5), (1, 3), (2, 2), (1, 1)])


def windows(rng, rows, k):
    """Rows from fewer hidden causes than inputs, with scales that differ: like activations."""
    causes = rng.standard_normal((rows, max(1, k // 2)))
    x = causes @ rng.standard_normal((causes.shape[1], k)) + 0.3 * rng.standard_normal((rows, k))
    return x * np.exp(rng.standard_normal(k))


def loss(weight, W, xx):
    return squared_error(weight - W, xx).sum()


def by_magnitude(W, xx, patterns, keep, block):
    """Each channel's pattern, and each block's channels, by weight times input norm."""
    n, taps = len(W), patterns.shape[1]
    scores = np.zeros((-(-n // block) * block, W.shape[1]))
    scores[:n] = W**2 * np.diag(xx)
    scores = scores.reshape(-1, block, W.shape[1] // taps, taps).sum(axis=1)
    energies = scores @ patterns.T
    mask = patterns[energies.argmax(axis=2)]
    weakest = np.argsort(-energies.max(axis=2), axis=1)[:, keep:]
    np.put_along_axis(mask, weakest[:, :, None], False, axis=1)
    return mask.reshape(len(mask), -1)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, kernel=kernels, n=st.integers(1, 9), channels=st.integers(1, 7), data=st.data())
def test_balance_membership_and_least_squares(seed, kernel, n, channels, data):
    rng = np.random.default_rng(seed)
    taps = kernel[0] * kernel[1]
    keep, block = data.draw(st.integers(1, channels)), data.draw(st.integers(1, n + 2))
    entries = data.draw(st.integers(1, taps))
    x, W = windows(rng, 60, channels * taps), rng.standard_normal((n, channels * taps))
    xx = x.T @ x
    patterns = natural_patterns(W, xx, kernel, 6, entries=entries, block=block)
    weight, mask = prune_patterns(W, xx, patterns, keep, block)
    blocks = -(-n // block)
    assert mask.shape == (blocks, channels * taps)
    assert (mask.sum(axis=1) == keep * entries).all()
    allowed = {tuple(p) for p in patterns.tolist()} | {(False,) * taps}
    assert {tuple(p) for p in mask.reshape(-1, taps).tolist()} <= allowed
    assert (mask.reshape(blocks, channels, taps).any(axis=2).sum(axis=1) == keep).all()
    h = damped(xx)
    for row, kept in enumerate(np.repeat(mask, block, axis=0)[:n]):
        assert (weight[row, ~kept] == 0).all()
        best = np.linalg.solve(h[np.ix_(kept, kept)], h[kept] @ W[row])
        np.testing.assert_allclose(weight[row, kept], best, rtol=1e-5, atol=1e-6 * np.abs(W).max())


@settings(max_examples=25, deadline=None)
@given(seed=seeds, kernel=kernels, count=st.integers(1, 12), block=st.sampled_from([1, 3, 8]))
def test_natural_patterns_hold_the_centre_and_differ(seed, kernel, count, block):
    rng = np.random.default_rng(seed)
    taps = kernel[0] * kernel[1]
    x, W = windows(rng, 60, 5 * taps), rng.standard_normal((8, 5 * taps))
    patterns = natural_patterns(W, x.T @ x, kernel, count, block=block)
    assert 1 <= len(patterns) <= count
    assert len({tuple(p) for p in patterns.tolist()}) == len(patterns)
    assert (patterns.sum(axis=1) == natural_entries(kernel)).all()
    assert patterns[:, kernel[0] // 2 * kernel[1] + kernel[1] // 2].all()


def test_entries_kept_are_the_papers_for_3x3_and_9_to_12_for_5x5():
    assert natural_entries((3, 3)) == 4
    assert 9 <= natural_entries((5, 5)) <= 12
    assert natural_entries((1, 1)) == 1


def test_the_patterns_that_made_a_layer_are_found_and_given_back():
    """A layer of two shapes, one twice as frequent: they come out in that order, and lose nothing."""
    rng = np.random.default_rng(0)
    upper, left = ([0, 1, 2, 4], [0, 3, 4, 6])
    W = np.zeros((4, 9, 9))
    for channel in range(9):
        W[:, channel, left if channel % 3 == 0 else upper] = 1 + rng.random((4, 4))
    W = W.reshape(4, 81)
    x = rng.standard_normal((400, 81))
    patterns = natural_patterns(W, x.T @ x, (3, 3), 2)
    assert [list(np.flatnonzero(p)) for p in patterns] == [upper, left]
    weight, mask = prune_patterns(W, x.T @ x, patterns, block=2)
    np.testing.assert_array_equal(mask, np.tile(W[0] != 0, (2, 1)))
    np.testing.assert_allclose(weight, W, atol=1e-6)


def test_kernels_of_zeros_have_no_say_in_the_patterns():
    rng = np.random.default_rng(1)
    W = np.zeros((2, 6, 9))
    W[:, 0, [2, 4, 5, 8]] = 1
    (pattern,) = natural_patterns(W.reshape(2, 54), np.eye(54), (3, 3), 1)
    assert list(np.flatnonzero(pattern)) == [2, 4, 5, 8]
    nothing = natural_patterns(np.zeros((2, 54)), np.eye(54), (3, 3))
    weight, mask = prune_patterns(np.zeros((2, 54)), np.eye(54), nothing, 3, 1)
    assert not weight.any()
    assert (mask.sum(axis=1) == 12).all()
    x = rng.standard_normal((50, 54))
    assert len(natural_patterns(W.reshape(2, 54), x.T @ x, (3, 3), 8)) == 1


@settings(max_examples=20, deadline=None)
@given(seed=seeds, kernel=kernels, block=st.sampled_from([1, 3, 8]), rank=st.integers(1, 60))
def test_never_worse_than_patterns_by_magnitude_with_the_same_refit(seed, kernel, block, rank):
    rng = np.random.default_rng(seed)
    k = 5 * kernel[0] * kernel[1]
    x = windows(rng, 60, k)[:rank]
    W, xx = rng.standard_normal((7, k)), x.T @ x
    patterns = natural_patterns(W, xx, kernel, 5, block=block)
    weight, _ = prune_patterns(W, xx, patterns, None, block)
    h = damped(xx)
    start = refit(W, h, by_magnitude(W, xx, patterns, 5, block), 1, block)
    assert loss(weight, W, h) <= loss(start, W, h) * (1 + 1e-5)


@pytest.mark.parametrize(("block", "share"), [(1, 0.85), (4, 0.95), (12, 1.0)])
def test_better_than_magnitude_in_patterns_and_connectivity(block, share):
    ours, theirs = 0.0, 0.0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, W = windows(rng, 400, 108), rng.standard_normal((12, 108))
        xx = x.T @ x
        patterns = natural_patterns(W, xx, (3, 3), 8, block=block)
        weight, _ = prune_patterns(W, xx, patterns, 5, block)
        mask = by_magnitude(W, xx, patterns, 5, block)
        assert (mask.sum(axis=1) == 20).all()
        ours += loss(weight, W, xx)
        theirs += loss(refit(W, damped(xx), mask, 1, block), W, xx)
    assert ours < share * theirs


def test_near_the_best_of_all_assignments():
    ratios = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, W = windows(rng, 100, 27), rng.standard_normal((3, 27))
        h = damped(x.T @ x)
        patterns = natural_patterns(W, x.T @ x, (3, 3), 4)
        every = np.stack(np.meshgrid(*[range(len(patterns))] * 3), axis=-1).reshape(-1, 3)
        masks = patterns[every].reshape(len(every), -1)
        best = min(loss(refit(W, h, m[None], 1, 3), W, h) for m in masks)
        weight, _ = prune_patterns(W, x.T @ x, patterns)
        ratios.append(loss(weight, W, h) / best)
    assert min(ratios) >= 1 - 1e-5
    assert np.median(ratios) < 1.1
    assert max(ratios) < 1.6


def test_a_path_is_nested_and_its_error_rises():
    rng = np.random.default_rng(2)
    x, W = windows(rng, 200, 90), rng.standard_normal((7, 90))
    xx = x.T @ x
    patterns = natural_patterns(W, xx, (3, 3), block=4)
    path = pattern_path(W, xx, patterns, [10, 3, 7], 4)
    alone = prune_patterns(W, xx, patterns, 10, 4)
    np.testing.assert_array_equal(path[0][1], alone[1])
    (all_of_them, most), (few, fewest), (some, more) = path
    assert (most | ~more).all()
    assert (more | ~fewest).all()
    h = damped(xx)
    assert loss(all_of_them, W, h) < loss(some, W, h) < loss(few, W, h)


def test_patterns_of_all_entries_leave_the_weight_as_it_is():
    rng = np.random.default_rng(3)
    x, W = windows(rng, 60, 18), rng.standard_normal((3, 18)).astype(np.float32)
    weight, mask = prune_patterns(W, x.T @ x, np.ones((1, 9), dtype=bool), block=2)
    np.testing.assert_array_equal(weight, W)
    assert mask.all()


def test_more_sweeps_never_lose(monkeypatch):
    from passes.solve import patterns as module

    rng = np.random.default_rng(4)
    x, W = windows(rng, 300, 180), rng.standard_normal((12, 180))
    h = damped(x.T @ x)
    patterns = natural_patterns(W, x.T @ x, (3, 3), block=4)
    losses = []
    for sweeps in (0, 1, 2, 5):
        monkeypatch.setattr(module, "SWEEPS", sweeps)
        losses.append(loss(prune_patterns(W, x.T @ x, patterns, block=4)[0], W, h))
    start = refit(W, h, by_magnitude(W, x.T @ x, patterns, 20, 4), 1, 4)
    assert losses[0] == pytest.approx(loss(start, W, h))
    assert losses[1] < 0.99 * losses[0]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(losses))


def test_dead_windows_fall_back_to_the_weights():
    rng = np.random.default_rng(5)
    W = rng.standard_normal((2, 27))
    pairs = np.zeros((36, 9), dtype=bool)
    pairs[np.arange(36)[:, None], list(combinations(range(9), 2))] = True
    weight, mask = prune_patterns(W, np.zeros((27, 27)), pairs, block=1)
    largest = np.sort(np.argsort(-np.abs(W.reshape(2, 3, 9)), axis=2)[:, :, :2])
    np.testing.assert_array_equal(np.nonzero(mask.reshape(2, 3, 9))[2].reshape(2, 3, 2), largest)
    np.testing.assert_allclose(weight[mask], W[mask], rtol=1e-6)


def test_bad_inputs_are_named():
    W, xx, patterns = np.ones((2, 18)), np.eye(18), np.eye(9, dtype=bool)
    for bad in (0, 10):
        with pytest.raises(PassError, match="entries of a pattern out of range"):
            natural_patterns(W, xx, (3, 3), entries=bad)
    for wrong in (0, 3):
        with pytest.raises(PassError, match="kept channels out of range"):
            prune_patterns(W, xx, patterns, wrong)
    with pytest.raises(PassError, match="no convolution of these kernels"):
        prune_patterns(W[:, :17], xx[:17, :17], patterns)
    with pytest.raises(PassError, match="does not fit the weight"):
        natural_patterns(W, np.eye(9), (3, 3))
    with pytest.raises(PassError, match="weight holds"):
        prune_patterns(W * np.nan, xx, patterns)
    uneven = np.array([[True] * 9, [True] * 4 + [False] * 5])
    for patterns in (uneven, np.zeros((1, 9), dtype=bool), np.zeros((0, 9), dtype=bool)):
        with pytest.raises(PassError, match="same number of entries"):
            prune_patterns(W, xx, patterns)
