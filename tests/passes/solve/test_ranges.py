"""Ranges of codes: what they span, what they clip, and that the search finds the least error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from passes.errors import PassError
from passes.solve.ranges import Codes, codes_between, fitted
from passes.solve.values import Values
from targets.kernels.quantize_static import quantize_static_reference

rng = np.random.default_rng(6)
METHODS = ("minmax", "mse", "percentile 99.9")


def values_of(x):
    values = Values(x.shape[1])
    values.add(np.asarray(x, np.float32))
    return values


def error(x, codes):
    return np.square(codes.of(x) - x.astype(np.float64)).sum()


def tailed(rows=300, columns=40):
    x = rng.laplace(size=(rows, columns))  # most are small, a few are large
    return np.where(x > 0, 2 * x, x).astype(np.float32)


def test_codes_are_those_of_the_kernel():
    x = tailed()
    codes = Codes(0.01, 99)
    q = quantize_static_reference(x, *codes).astype(np.float32)
    np.testing.assert_array_equal(codes.of(x), (q - 99) * np.float32(0.01))


def test_minmax_clips_nothing():
    x = tailed()
    codes = fitted(values_of(x), "minmax")
    assert codes.scale == pytest.approx((x.max() - x.min()) / 255, rel=1e-5)
    assert np.abs(codes.of(x) - x).max() <= 1.01 * codes.scale


@settings(max_examples=50, deadline=None, derandomize=True)
@given(arrays(np.float32, (3, 5), elements=st.floats(-1e6, 1e6, width=32)))
def test_zero_is_a_code_of_every_range(x):
    for method in METHODS:
        codes = fitted(values_of(x), method)
        assert codes.scale > 0
        assert 0 <= codes.zero <= 255
        assert np.isfinite(codes.of(x)).all()
        assert (codes.of(np.zeros(3, np.float32)) == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_one_sided_inputs_waste_no_code_on_a_sign(method):
    x = np.maximum(tailed(), 0)
    assert fitted(values_of(x), method).zero == 0
    assert fitted(values_of(-x), method).zero == 255


def test_the_search_beats_the_full_range_and_a_grid_of_others():
    x = tailed(3000)
    best = error(x, fitted(values_of(x), "mse"))
    low, high = float(x.min()), float(x.max())
    assert best < 0.95 * error(x, fitted(values_of(x), "minmax"))
    shares = np.linspace(0.1, 1, 13)
    grid = [error(x, codes_between(low * a, high * b)) for a in shares for b in shares]
    assert best <= 1.02 * min(grid)


def test_percentiles_leave_out_the_tails():
    x = np.linspace(-1, 3, 10001, dtype=np.float32)[:, None]
    codes = fitted(values_of(x), "percentile 99")
    assert codes.scale * 255 == pytest.approx(2.96 + 0.96, rel=1e-3)
    assert codes.scale * codes.zero == pytest.approx(0.96, abs=codes.scale)


def test_zeros_and_errors():
    codes = fitted(values_of(np.zeros((4, 3))), "mse")
    assert (codes.of(np.zeros(3, np.float32)) == 0).all()
    with pytest.raises(PassError, match="without calibration data"):
        fitted(Values(3), "mse")
    for method in ("kl", "percentile 20", "percentile 101"):
        with pytest.raises(PassError, match="unknown way"):
            fitted(values_of(tailed()), method)
