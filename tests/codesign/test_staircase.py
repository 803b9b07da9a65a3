"""Edges and widths worth having, of staircases, slopes and noise."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.staircase import Point, around_edges, edges, evenly, summary, worth_having


def points(times, noise=0.001):
    return [Point(w, t, t * (1 - noise), t * (1 + noise), t / 7) for w, t in times.items()]


def stairs(full, block):
    return {w: float(-(-w // block)) for w in range(1, full + 1)}


def test_a_staircase_is_worth_having_at_its_edges():
    found = points(stairs(20, 8))
    assert edges(found) == [8, 16]
    assert worth_having(found) == [20, 16, 8]
    assert summary(found) == "steps every 8"


def test_a_narrower_layer_that_is_slower_is_worth_nothing():
    found = points({10: 5.0, 9: 6.0, 8: 4.0, 7: 4.5, 6: 4.0})
    assert worth_having(found) == [10, 8]
    assert edges(found) == [6, 8]


def test_a_gentle_slope_counts_once_it_has_summed_up():
    found = points({w: 100.0 + 0.4 * w for w in range(10)})
    assert worth_having(found) == [9, 6, 3, 0]
    assert edges(found) == []
    assert summary(found) == "no steps"


def test_noise_is_no_gain():
    assert worth_having(points({10: 5.0, 9: 4.7, 8: 4.0}, noise=0.05)) == [10, 8]


def test_points_are_compared_by_their_ratio():
    drifted = [Point(2, 9.0, 8.9, 9.1, 1.0), Point(1, 3.0, 2.9, 3.1, 1.0)]
    assert worth_having(drifted) == [2]


def test_summary_of_few_and_of_uneven_steps():
    assert summary(points({1: 1.0, 2: 2.0})) == "one step, after 1"
    uneven = dict(zip(range(1, 8), [1, 2, 3, 3, 3, 3, 4], strict=True))
    assert summary(points(uneven)) == "steps 1 to 4 apart"


@given(st.dictionaries(st.integers(1, 300), st.floats(0.1, 10), min_size=1, max_size=30))
def test_the_widest_comes_first_and_each_is_faster(times):
    kept = worth_having(points(times))
    assert kept[0] == max(times)
    assert kept == sorted(kept, reverse=True)
    assert all(times[b] < times[a] for a, b in pairwise(kept))


def test_which_widths_are_measured():
    assert around_edges(40, 16, 2, 2) == [2, 14, 16, 18, 30, 32, 34, 40]
    assert around_edges(3, 16, 4, 1) == [1, 3]
    assert evenly(20, 8, 3) == [4, 12, 20]
    assert evenly(20, 1, 20) == [20]


@pytest.mark.parametrize("full", [1, 31, 32, 33, 100])
def test_widths_measured_are_in_range(full):
    widths = around_edges(full, 32, 4, 1)
    assert (widths[0], widths[-1]) == (1, full)
