"""Tucker-2 factors: exact at full ranks, at least as good as other ways to find them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.errors import PassError
from passes.solve.gram import damped, squared_error
from passes.solve.low_rank import factorize
from passes.solve.tucker import tucker2


def problem(shape, seed=0, rows=600):
    """A weight and the Gram matrix of windows whose channels are correlated and of unlike size."""
    rng = np.random.default_rng(seed)
    _, c, kh, kw = shape
    causes = rng.standard_normal((rows, max(1, c // 2), kh * kw))
    causes = np.cumsum(causes, axis=2)  # neighbouring taps are alike
    x = np.einsum("nat,ac->nct", causes, rng.standard_normal((causes.shape[1], c)))
    x = (x + 0.3 * rng.standard_normal(x.shape)) * np.geomspace(0.1, 3, c)[:, None]
    x = x.reshape(rows, -1)
    return rng.standard_normal(shape), x.T @ x


def lost(got, W, h):
    change = (got.product - W).reshape(len(W), -1)
    return squared_error(change, h).sum() / squared_error(W.reshape(len(W), -1), h).sum()


@pytest.mark.parametrize("shape", [(7, 5, 3, 3), (4, 6, 1, 3), (3, 8, 1, 1)])
@pytest.mark.parametrize("judged", [False, True])
def test_full_ranks_are_the_weight_itself(shape, judged):
    W, xx = problem(shape)
    got = tucker2(W, shape[1], shape[0], xx if judged else None)
    assert (got.first.shape, got.last.shape) == ((shape[1],) * 2, (shape[0],) * 2)
    np.testing.assert_allclose(got.product, W, rtol=0, atol=1e-4)


def hooi(W, rank_in, rank_out, seed, rounds=60):
    """The same without moments, from a random start, by SVDs of the unfoldings."""
    first = np.linalg.qr(np.random.default_rng(seed).standard_normal((W.shape[1], rank_in)))[0]
    for _ in range(rounds):
        seen = np.einsum("ocrs,cq->oqrs", W, first).reshape(len(W), -1)
        last = np.linalg.svd(seen, full_matrices=False)[0][:, :rank_out]
        seen = np.einsum("ocrs,op->cprs", W, last).reshape(W.shape[1], -1)
        first = np.linalg.svd(seen, full_matrices=False)[0][:, :rank_in]
    whole = np.einsum("ocrs,cq,dq,op,ep->edrs", W, first, first, last, last, optimize=True)
    return np.square(whole - W).sum()


@pytest.mark.parametrize("ranks", [(2, 3), (4, 2), (3, 5)])
def test_without_moments_as_good_as_many_alternations(ranks):
    rng = np.random.default_rng(1)
    low = np.einsum(
        "op,pqrs,qc->ocrs", rng.standard_normal((8, 4)), rng.standard_normal((4, 3, 3, 2)),
        rng.standard_normal((3, 6)),
    )  # fmt: skip
    W = low + 0.3 * rng.standard_normal(low.shape)
    error = np.square(tucker2(W, *ranks).product - W).sum()
    assert error <= 1.01 * min(hooi(W, *ranks, seed) for seed in range(3))


@pytest.mark.parametrize("ranks", [(3, 4), (6, 3), (4, 8)])
def test_moments_of_the_windows_pay(ranks):
    W, xx = problem((9, 8, 3, 3))
    h = damped(xx)
    assert lost(tucker2(W, *ranks, xx), W, h) < 0.8 * lost(tucker2(W, *ranks), W, h)


def test_all_input_channels_leave_the_best_low_rank_of_the_windows():
    W, xx = problem((9, 4, 3, 3))
    best = factorize(W.reshape(9, -1), xx, 3).product
    np.testing.assert_allclose(
        tucker2(W, 4, 3, xx).product.reshape(9, -1), best, rtol=0, atol=1e-4 * np.abs(W).max()
    )


def test_all_output_channels_of_a_1x1_leave_the_best_low_rank():
    W, xx = problem((9, 7, 1, 1))
    best = factorize(W.reshape(9, -1), xx, 3).product
    np.testing.assert_allclose(tucker2(W, 3, 3, xx).product.reshape(9, -1), best, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    o=st.integers(1, 7), c=st.integers(1, 7), kh=st.integers(1, 3), kw=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_more_channels_are_never_much_worse(o, c, kh, kw, seed):
    W, xx = problem((o, c, kh, kw), seed, rows=60)
    h = damped(xx)
    small = lost(tucker2(W, 1, 1, xx), W, h)
    large = lost(tucker2(W, c, min(o, c * kh * kw), xx), W, h)
    assert large <= 1e-6
    assert small <= 1 + 1e-6


def test_zeros():
    W, xx = problem((4, 5, 3, 3))
    assert (tucker2(0 * W, 2, 2, xx).product == 0).all()
    assert lost(tucker2(W, 5, 4, 0 * xx), W, np.eye(45)) < 1e-8


@pytest.mark.parametrize(
    ("ranks", "name"), [((0, 2), "rank_in"), ((6, 2), "rank_in"), ((2, 5), "rank_out")]
)
def test_ranks_that_cannot_be(ranks, name):
    W, xx = problem((4, 5, 1, 1))
    with pytest.raises(PassError, match=name):
        tucker2(W, *ranks, xx)


def test_a_gram_of_another_window():
    W, xx = problem((4, 5, 3, 3))
    with pytest.raises(PassError, match="Gram"):
        tucker2(W, 2, 2, xx[:5, :5])
