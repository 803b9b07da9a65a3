"""Medians, their intervals, and output errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from benchmarks.peers.statistics import median, median_interval, output_error


@given(st.integers(1, 60))
def test_interval_is_the_narrowest_that_covers(count: int) -> None:
    low, high = median_interval(list(range(count)))
    k = int(low) + 1
    assert high == count - k
    wider = range(1, max(1, count // 2) + 1)
    covering = [r for r in wider if 1 - 2 * binom.cdf(r - 1, count, 0.5) >= 0.95]
    assert k == max(covering, default=1)


def test_interval_of_twenty_is_the_sixth_and_the_fifteenth() -> None:
    values = [float(v) for v in np.random.default_rng(0).permutation(20)]
    assert median_interval(values) == (5.0, 14.0)
    assert median(values) == 9.5


def test_no_values() -> None:
    assert math.isnan(median([]))
    assert all(math.isnan(v) for v in median_interval([]))


def test_error_of_a_known_output() -> None:
    expected = np.array([[[3.0, 4.0], [0.0, 0.0]]])
    got = np.array([[[3.0, 4.5], [9.0, 9.0]]])
    error = output_error(got, expected, np.array([[1, 0]]))  # the second token is padding
    assert error["max_abs"] == pytest.approx(0.5)
    assert error["relative"] == pytest.approx(0.125)
    assert error["rms"] == pytest.approx(0.1)
    assert error["lowest_cosine"] == pytest.approx((9 + 18) / (5 * math.hypot(3, 4.5)))


def test_lowest_cosine_is_that_of_the_worst_sentence() -> None:
    expected = np.eye(3)[:, None, :]
    got = expected.copy()
    got[1, 0] = [1.0, 1.0, 0.0]
    error = output_error(got, expected, np.ones((3, 1)))
    assert error["lowest_cosine"] == pytest.approx(math.sqrt(0.5))


def test_nan_is_not_hidden() -> None:
    got = np.array([[[np.nan, 1.0]]])
    error = output_error(got, np.ones((1, 1, 2)), np.ones((1, 1)))
    assert all(math.isnan(value) for value in error.values())
