"""Dense float32 products against float64, at sizes that no tile divides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear import dense, pack_dense
from targets.kernels.spaces import schedules
from targets.target import find

CASES = [((1,), 30, 35), ((13,), 67, 50), ((2, 17), 50, 100), ((130,), 33, 17), ((2, 1), 9, 1)]


def arrays(lead, k, n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*lead, k)).astype(np.float32)
    return x, rng.standard_normal((n, k)).astype(np.float32)


def product(x, w):
    return x.astype(np.float64) @ w.T.astype(np.float64)


@pytest.mark.parametrize(("lead", "k", "n"), CASES)
def test_dense(run, close, target, lead, k, n):
    x, w = arrays(lead, k, n)
    nb = target.block
    for (y,) in run(dense(lead, k, n, nb), target, [x, pack_dense(w, nb)]):
        close(y, product(x, w))


def test_dense_with_threads(run, close, threaded):
    lead, k, n = (2, 17), 50, 100
    x, w = arrays(lead, k, n)
    nb = threaded.block
    for (y,) in run(dense(lead, k, n, nb), threaded, [x, pack_dense(w, nb)]):
        close(y, product(x, w))


def test_every_schedule(run, close, target):
    x, w = arrays((13,), 67, 50)
    func = dense((13,), 67, 50, target.block)
    results = [y for (y,) in run(func, target, [x, pack_dense(w, target.block)], every=True)]
    assert len(results) >= 6
    for y in results:
        close(y, product(x, w))


def test_bias_gelu_and_residual_are_fused(run, close, target):
    lead, k, n = (2, 13), 37, 50
    x, w = arrays(lead, k, n)
    bias, residual = np.linspace(-2, 2, n, dtype=np.float32), arrays(lead, n, 1, 1)[0]
    z = product(x, w) + bias
    packed = pack_dense(w, target.block)
    kernel = dense(lead, k, n, target.block)
    gelu = with_epilogue(kernel, bias=True, activation="gelu")
    for (y,) in run(gelu, target, [x, packed, bias]):
        close(y, z * 0.5 * (1 + erf(z / np.sqrt(2))))
    both = with_epilogue(kernel, bias=True, residual=True)
    for (y,) in run(both, target, [x, packed, bias, residual]):
        close(y, z + residual)


@pytest.mark.parametrize("n", [4, 16, 24])
def test_outputs_of_less_than_a_block_keep_their_space(run, close, target, n):
    """An activation that is computed in steps leaves the surplus outputs of the block out."""
    lead, k = (9,), 20
    x, w = arrays(lead, k, n)
    silu = with_epilogue(dense(lead, k, n, target.block), activation="silu")
    full = with_epilogue(dense(lead, k, target.block, target.block), activation="silu")
    assert len(schedules(silu, target)) == len(schedules(full, target))
    z = product(x, w)
    for (y,) in run(silu, target, [x, pack_dense(w, target.block)]):
        close(y, z / (1 + np.exp(-z)))


def test_epilogue_with_threads(run, close, threaded):
    lead, k, n = (130,), 20, 33
    x, w = arrays(lead, k, n)
    residual = arrays(lead, n, 1, 1)[0]
    func = with_epilogue(dense(lead, k, n, threaded.block), residual=True)
    for (y,) in run(func, threaded, [x, pack_dense(w, threaded.block), residual]):
        close(y, product(x, w) + residual)


def test_zeros_and_extremes(compiled, target):
    nb = target.block
    kernel = compiled(dense((3,), 19, 21, nb), target)
    x, w = arrays((3,), 19, 21)
    assert (kernel([0 * x, pack_dense(w, nb)])[0] == 0).all()
    large = np.where(x > 0, 1e37, -1e37).astype(np.float32)
    one = np.zeros_like(w)
    one[:, 4] = 8
    np.testing.assert_array_equal(kernel([large, pack_dense(one, nb)])[0], large[:, [4] * 21] * 8)
    assert np.isinf(kernel([large, pack_dense(one * 1e3, nb)])[0]).all()


@settings(max_examples=8, deadline=None, derandomize=True)
@given(rows=st.integers(1, 40), batch=st.integers(1, 2), k=st.integers(1, 70), n=st.integers(1, 70))
def test_any_size(compiled, close, rows, batch, k, n):
    target = find("host")
    x, w = arrays((batch, rows), k, n)
    kernel = compiled(dense((batch, rows), k, n, target.block), target)
    wanted = product(x, w)
    error = np.abs(kernel([x, pack_dense(w, target.block)])[0] - wanted)
    assert (error <= 1e-6 * (np.abs(x).astype(np.float64) @ np.abs(w).T)).all()


@pytest.mark.parametrize("nb", [1, 16, 32])
def test_packing_keeps_every_weight(nb):
    _, w = arrays((1,), 5, 33)
    packed = pack_dense(w, nb)
    assert packed.shape == (-(-33 // nb), 5, nb)
    flat = packed.transpose(0, 2, 1).reshape(-1, 5)
    np.testing.assert_array_equal(flat[:33], w)
    assert (flat[33:] == 0).all()
