"""Quantisation of activations: the largest error, exact zeros, codes that never wrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from targets.kernels.quantize import quantize_reference, quantize_rows
from targets.target import find


def check(x, q, scale, zero):
    k = x.shape[-1]
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    span = np.maximum(high.astype(np.float64) - low, 1e-30)
    np.testing.assert_allclose(scale, span / 254, rtol=1e-6)
    assert zero.min() >= 0
    assert zero.max() <= 255
    back = (q[..., :k].astype(np.int64) - zero[..., None]) * scale[..., None].astype(np.float64)
    assert (np.abs(back - x) <= 0.501 * scale[..., None]).all()
    np.testing.assert_array_equal(back[x == 0], 0)
    wanted = quantize_reference(x)
    np.testing.assert_array_equal(zero, wanted.zero)
    assert np.abs(q[..., :k].astype(int) - wanted.q).max() <= 1
    assert q.shape[-1] == -(-k // 4) * 4


def rows(lead, k):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*lead, k)) * 10.0 ** rng.integers(-6, 6, (*lead, 1))
    return x.astype(np.float32)


@pytest.mark.parametrize(("lead", "k"), [((1,), 3), ((13,), 67), ((2, 17), 384)])
def test_random_rows(run, target, lead, k):
    x = rows(lead, k)
    for q, scale, zero in run(quantize_rows(lead, k), target, [x], every=k == 384):
        check(x, q, scale, zero)


def test_with_threads(run, threaded):
    x = rows((130,), 66)
    for q, scale, zero in run(quantize_rows((130,), 66), threaded, [x]):
        check(x, q, scale, zero)


def test_special_rows(compiled, target):
    x = np.zeros((8, 33), np.float32)
    x[1] = 5  # the range includes zero
    x[2] = -5
    x[3, 4] = 1e37
    x[4, 4], x[4, 5] = -1e37, 1e37
    x[5, 0] = 1e-38
    x[6] = np.linspace(-1, 1, 33)
    x[7] = np.linspace(1e6, 1e6 + 1, 33)
    q, scale, zero = compiled(quantize_rows((8,), 33), target)([x])
    check(x, q, scale, zero)
    assert (q[0, :33] == zero[0]).all()


@pytest.fixture(scope="module")
def three_rows(compiled):
    return compiled(quantize_rows((3,), 21), find("host"))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays(np.float32, (3, 21), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_any_row(three_rows, x):
    x = np.where(np.abs(x) < 1e-25, np.float32(0), x)
    check(x, *three_rows([x]))


def test_reference_gives_back_what_it_was_given():
    x = rows((5,), 40)
    made = quantize_reference(x)
    assert (np.abs(made.dequantized() - x) <= 0.501 * made.scale[:, None]).all()
