"""Codes by group: on the grid, never worse than to nearest, better where inputs are correlated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.errors import PassError
from passes.solve.gptq import quantize_rows
from passes.solve.gram import squared_error
from passes.solve.group_scales import Grid, group_codes, quantize_groups
from targets.kernels.linear_weight_only import Codes

CODES = st.builds(Codes, st.sampled_from([4, 8]), st.sampled_from([8, 32]), st.booleans())


def problem(seed, n, k, rows=300):
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((rows, max(1, k // 3)))
    x = causes @ rng.standard_normal((causes.shape[1], k)) + 0.3 * rng.standard_normal((rows, k))
    return rng.standard_normal((n, k)), x.T @ x


def to_nearest(W, grid, codes):
    scale, zero = (np.repeat(a, codes.group, axis=1)[:, : W.shape[1]].astype(float) for a in grid)
    return (np.clip(np.rint(W / scale + zero), codes.lowest, codes.highest) - zero) * scale


def plain(W, codes):
    """The whole range of every group, to nearest: what needs no solver."""
    k = W.shape[1]
    out = np.empty_like(W)
    for start in range(0, k, codes.group):
        part = W[:, start : start + codes.group]
        if codes.symmetric:
            scale = np.abs(part).max(axis=1, keepdims=True) / (codes.highest - codes.middle)
            zero = np.zeros_like(scale)
            low, high = codes.lowest - codes.middle, codes.highest - codes.middle
        else:
            bottom = np.minimum(part.min(axis=1, keepdims=True), 0)
            top = np.maximum(part.max(axis=1, keepdims=True), 0)
            scale = (top - bottom) / (codes.highest - codes.lowest)
            zero = np.rint(-bottom / scale)
            low, high = 0, codes.highest - codes.lowest
        code = np.clip(np.rint(part / scale + zero), low, high)
        out[:, start : start + codes.group] = (code - zero) * scale
    return out


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), k=st.integers(1, 100), codes=CODES)
def test_on_the_grid_and_no_row_worse_than_nearest(seed, n, k, codes):
    W, xx = problem(seed, n, k)
    W[0, : k // 2] = 0
    got, grid = quantize_groups(W, xx, codes)
    assert grid.scale.shape == grid.zero.shape == (n, codes.groups(k))
    assert (grid.scale > 0).all()
    code = group_codes(got, grid, codes)
    scale, zero = (np.repeat(a, codes.group, axis=1)[:, :k] for a in grid)
    np.testing.assert_allclose((code - zero) * scale, got, rtol=1e-6, atol=0)
    if codes.symmetric:
        assert (grid.zero == codes.middle).all()
    wanted = squared_error(to_nearest(W, grid, codes) - W, xx)
    assert (squared_error(got - W, xx) <= wanted * (1 + 1e-5) + 1e-9 * squared_error(W, xx)).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "share"), [(4, 0.5), (8, 0.6)])
def test_much_better_than_rounding_on_correlated_inputs(bits, share, symmetric):
    W, xx = problem(0, 24, 120, 2000)
    codes = Codes(bits, 32, symmetric)
    got, _ = quantize_groups(W, xx, codes)
    error, rough = (squared_error(w - W, xx).sum() for w in (got, plain(W, codes)))
    assert error < share * rough


@pytest.mark.parametrize(("symmetric", "share"), [(True, 0.85), (False, 0.95)])
def test_ranges_pay_without_any_correlation(symmetric, share):
    rng = np.random.default_rng(1)
    W, codes = rng.standard_t(4, (20, 128)), Codes(4, 64, symmetric)
    got, _ = quantize_groups(W, np.eye(128), codes)
    assert np.square(got - W).sum() < share * np.square(plain(W, codes) - W).sum()


def test_zero_points_pay_for_weights_of_one_sign():
    W, xx = problem(2, 10, 64)
    W = np.abs(W) + 1
    errors = [
        squared_error(quantize_groups(W, xx, Codes(4, 32, s))[0] - W, xx).sum()
        for s in (True, False)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_groups_beat_one_scale_a_row():
    W, xx = problem(3, 16, 128)
    W *= np.exp(np.random.default_rng(3).standard_normal(128))
    rows, _ = quantize_rows(W, xx)
    groups, _ = quantize_groups(W, xx, Codes(8, 32))
    assert squared_error(groups - W, xx).sum() < squared_error(rows - W, xx).sum()


@pytest.mark.parametrize("codes", [Codes(4, 8), Codes(4, 8, False), Codes(8, 8)], ids=str)
def test_degenerate_weights(codes):
    W, xx = problem(4, 3, 20)
    zeros, grid = quantize_groups(0 * W, xx, codes)
    assert not zeros.any()
    assert (group_codes(zeros, grid, codes) == grid.zero.repeat(8, axis=1)[:, :20]).all()
    unseen, _ = quantize_groups(W, 0 * xx, codes)
    tolerance = np.abs(W).max() * (0.1 if codes.bits == 4 else 0.01)
    np.testing.assert_allclose(unseen, W, rtol=0, atol=tolerance)
    tiny, grid = quantize_groups((W * 1e-42).astype(np.float32), xx, codes)
    assert np.isfinite(tiny).all()
    assert np.isfinite(grid.scale).all()
    assert (grid.scale > 0).all()
    large, _ = quantize_groups(W * 1e30, xx, codes)
    np.testing.assert_allclose(large, quantize_groups(W, xx, codes)[0] * 1e30, rtol=1e-5)


def test_what_does_not_fit():
    W, xx = problem(5, 3, 20)
    with pytest.raises(PassError, match="Gram"):
        quantize_groups(W, xx[:5, :5], Codes(8, 8))
    with pytest.raises(PassError, match="no numbers"):
        quantize_groups(W * np.inf, xx, Codes(8, 8))
    codes = Codes(4, 8)
    got, grid = quantize_groups(W, xx, codes)
    with pytest.raises(PassError, match="int4 grid"):
        group_codes(got * 1.01, grid, codes)
    with pytest.raises(PassError, match="int4 grid"):
        group_codes(got, Grid(grid.scale / 16, grid.zero), codes)
