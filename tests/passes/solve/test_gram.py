"""Grams are the moments of the rows, and the target weight is the least-squares map of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.errors import PassError
from passes.solve.gram import (
    Gram,
    corrected_bias,
    damped,
    relative_error,
    squared_error,
    target_weight,
)

seeds = st.integers(0, 2**32 - 1)


def drifted_rows(rng, rows, k):
    """Dense inputs, and the same ones with some directions lost and noise and a shift added."""
    dense = rng.standard_normal((rows, k)) @ rng.standard_normal((k, k)) + rng.standard_normal(k)
    mixing = np.eye(k) + 0.2 * rng.standard_normal((k, k))
    noise = 0.3 * rng.standard_normal((rows, k))
    return dense, dense @ mixing + noise + rng.standard_normal(k)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, k=st.integers(1, 9))
def test_moments_are_those_of_all_rows_however_they_come(seed, k):
    rng = np.random.default_rng(seed)
    dense, compressed = drifted_rows(rng, 60, k)
    gram = Gram(k).add(compressed[:24].reshape(2, 3, 4, k), dense[:24].reshape(2, 3, 4, k))
    gram.add(compressed[24:], dense[24:]).add(np.zeros((0, k)))
    assert gram.count == 60
    for got, wanted in (
        (gram.xx, compressed.T @ compressed),
        (gram.cross, compressed.T @ dense),
        (gram.mean_c, compressed.mean(axis=0)),
        (gram.mean_d, dense.mean(axis=0)),
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    c, d = compressed - compressed.mean(axis=0), dense - dense.mean(axis=0)
    np.testing.assert_allclose(gram.centred().xx, c.T @ c, atol=1e-4 * gram.xx.max())
    np.testing.assert_allclose(gram.centred().cross, c.T @ d, atol=1e-4 * np.abs(gram.cross).max())


def test_rows_that_are_the_same_share_their_moments():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5))
    same = Gram(5).add(x)
    assert not same.drifted
    assert same.cross is same.xx
    later = Gram(5).add(x[:10]).add(x[10:], x[10:])
    assert later.drifted
    np.testing.assert_allclose(later.cross, same.xx, rtol=1e-6)
    np.testing.assert_allclose(later.mean_d, same.mean_c, rtol=1e-6)
    part = later.rows(np.array([3, 1]))
    np.testing.assert_array_equal(part.cross, later.cross[[3, 1]][:, [3, 1]])


@settings(max_examples=25, deadline=None)
@given(seed=seeds, k=st.integers(1, 7), n=st.integers(1, 5))
def test_target_weight_is_least_squares(seed, k, n):
    rng = np.random.default_rng(seed)
    dense, compressed = drifted_rows(rng, 80, k)
    W = rng.standard_normal((n, k))
    gram = Gram(k).add(compressed, dense)
    got = target_weight(W, gram, damping=1e-10)
    wanted = np.linalg.lstsq(compressed, dense @ W.T, rcond=None)[0].T
    best = np.square(compressed @ wanted.T - dense @ W.T).sum()
    reached = np.square(compressed @ got.T - dense @ W.T).sum()
    assert reached <= best * (1 + 1e-6) + 1e-9 * np.square(dense @ W.T).sum()
    assert reached <= np.square((compressed - dense) @ W.T).sum() * (1 + 1e-6)


def test_target_weight_and_bias_together_are_the_affine_least_squares():
    rng = np.random.default_rng(1)
    dense, compressed = drifted_rows(rng, 200, 6)
    W, b = rng.standard_normal((4, 6)), rng.standard_normal(4)
    gram = Gram(6).add(compressed, dense)
    weight = target_weight(W, gram.centred(), damping=1e-10)
    bias = corrected_bias(b, W, weight, gram)
    wanted = dense @ W.T + b
    padded = np.hstack([compressed, np.ones((200, 1))])
    best = np.linalg.lstsq(padded, wanted, rcond=None)[1].sum()
    assert np.square(compressed @ weight.T + bias - wanted).sum() <= best * (1 + 1e-5)


def test_a_residual_is_made_up_for_by_weight_and_bias():
    rng = np.random.default_rng(8)
    dense, compressed = drifted_rows(rng, 200, 6)
    W, b = rng.standard_normal((4, 6)), rng.standard_normal(4)
    residual = compressed @ rng.standard_normal((6, 4)) + rng.standard_normal((200, 4)) + 2
    wanted = dense @ W.T + b + residual
    padded = np.hstack([compressed, np.ones((200, 1))])
    best = np.linalg.lstsq(padded, wanted, rcond=None)[1].sum()
    gram = Gram(6).add(compressed[:90], dense[:90], residual[:90])
    gram.add(compressed[90:], dense[90:], residual[90:])
    weight = target_weight(W, gram.centred(), damping=1e-10)
    bias = corrected_bias(b, W, weight, gram)
    assert np.square(compressed @ weight.T + bias - wanted).sum() <= best * (1 + 1e-5)
    same = Gram(6).add(dense, residual=residual)
    assert same.changed
    assert not same.drifted
    assert np.abs(target_weight(W, same) - W).max() > 0.1
    with pytest.raises(PassError, match="residuals and inputs differ"):
        gram.add(compressed, dense, residual[:5])
    with pytest.raises(PassError, match="residuals must come with all"):
        gram.add(compressed, dense)
    with pytest.raises(PassError, match="residuals must come with all"):
        Gram(6).add(compressed).add(compressed, residual=residual)


def test_target_is_the_weight_itself_without_drift_and_stays_near_it_by_the_ridge():
    rng = np.random.default_rng(2)
    W = rng.standard_normal((3, 8))
    np.testing.assert_array_equal(target_weight(W, Gram(8).add(rng.standard_normal((9, 8)))), W)
    dense, compressed = drifted_rows(rng, 3, 8)  # fewer rows than inputs: singular without ridge
    gram = Gram(8).add(compressed, dense)
    far, near = (np.abs(target_weight(W, gram, d) - W).max() for d in (1e-3, 1e3))
    assert near < 1e-2 < far


def test_errors_of_weights_are_energies_of_outputs():
    rng = np.random.default_rng(3)
    x, change = rng.standard_normal((50, 6)), rng.standard_normal((4, 6))
    W = rng.standard_normal((4, 6))
    energy = np.square(x @ change.T).sum(axis=0)
    np.testing.assert_allclose(squared_error(change, x.T @ x), energy)
    wanted = energy.sum() / np.square(x @ W.T).sum()
    assert relative_error(W + change, W, x.T @ x) == pytest.approx(wanted)
    assert relative_error(W, np.zeros_like(W), x.T @ x) == 0


@pytest.mark.parametrize("xx", [np.zeros((4, 4)), np.ones((4, 4)), np.diag([1.0, 0, 0, 2])])
def test_damping_makes_any_gram_definite(xx):
    assert np.linalg.eigvalsh(damped(xx)).min() > 0


def test_bad_inputs_are_named():
    with pytest.raises(PassError, match="do not fit the layer"):
        Gram(4).add(np.zeros((3, 5)))
    with pytest.raises(PassError, match="calibration input holds"):
        Gram(2).add([[1.0, np.nan]])
    with pytest.raises(PassError, match="dense and compressed inputs differ"):
        Gram(2).add(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(PassError, match="Gram matrix holds"):
        damped(np.full((2, 2), np.inf))
    with pytest.raises(PassError, match="no X"):
        damped(np.diag([1.0, -1.0]))
    with pytest.raises(PassError, match="weight holds"):
        target_weight(np.full((1, 2), np.nan), Gram(2))


@pytest.mark.parametrize("calls", [1, 3])
def test_outputs_stand_for_dense_inputs_and_residual(calls):
    rng = np.random.default_rng(8)
    dense, compressed = drifted_rows(rng, 60, 5)
    W, b = rng.standard_normal((3, 5)), rng.standard_normal(3)
    residual = rng.standard_normal((60, 3))
    apart, together = Gram(5), Gram(5)
    for i in range(calls):
        part = slice(i, None, calls)
        apart.add(compressed[part], dense[part], residual[part])
        together.add_outputs(compressed[part], dense[part] @ W.T + residual[part])
    for one, other in ((apart, together), (apart.centred(), together.centred())):
        np.testing.assert_allclose(target_weight(W, other), target_weight(W, one), atol=1e-5)
    bias = corrected_bias(b, W, 0.5 * W, together)
    np.testing.assert_allclose(bias, corrected_bias(b, W, 0.5 * W, apart), atol=1e-5)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4])
def test_inputs_that_hardly_vary_can_be_solved_for(spread: float) -> None:
    """Their means taken off, rounding is left: as much as damping takes, whatever its sign."""
    rng = np.random.default_rng(4)
    dense = (3 + spread * rng.standard_normal((700, 301))).astype(np.float32)
    other = (dense * np.float32(1.01)).astype(np.float32)
    gram = Gram(301)
    gram.add(other, dense)
    W = rng.standard_normal((7, 301)).astype(np.float32)
    np.linalg.cholesky(damped(gram.centred().xx, 0.0))
    got = target_weight(W, gram.centred())
    bias = corrected_bias(np.zeros(7, np.float32), W, got, gram)
    wanted = dense.astype(np.float64) @ W.T
    error = np.abs(other.astype(np.float64) @ got.T + bias - wanted).max()
    assert error < 1e-3 * np.abs(wanted).max()
