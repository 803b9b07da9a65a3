import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from codesign.pareto import dominates, front, hypervolume, spread

coordinate = st.integers(0, 12).map(float)
points = st.lists(st.tuples(coordinate, coordinate), max_size=12)


@given(points)
def test_front_is_what_nothing_dominates(pairs):
    kept = {pairs[i] for i in front(pairs)}
    assert kept == {p for p in pairs if not any(dominates(q, p) for q in pairs)}


@given(points)
def test_front_rises_in_both(pairs):
    chosen = [pairs[i] for i in front(pairs)]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(chosen))


@given(points)
def test_hypervolume_counts_unit_squares(pairs):
    # every point and the reference lie on the integer grid, so unit squares are counted exactly
    squares = sum(
        any(p[0] <= x and p[1] >= y + 1 for p in pairs) for x in range(12) for y in range(12)
    )
    assert hypervolume(pairs, (12.0, 0.0)) == squares


@given(points, st.integers(0, 14))
def test_spread_gives_distinct_indices(pairs, n):
    chosen = spread(pairs, n)
    assert len(set(chosen)) == len(chosen) == min(n, len(pairs))


def test_spread_takes_both_ends_then_the_middle():
    line = [(float(i), float(i)) for i in range(11)]
    assert spread(line, 3) == [0, 10, 5]


def test_spread_keeps_away_from_what_is_taken():
    line = [(float(i), float(i)) for i in range(11)]
    assert spread(line, 1, taken=[(0.0, 0.0), (5.0, 5.0)]) == [10]


def test_nan_is_nowhere():
    pairs = [(1.0, math.nan), (math.inf, 5.0), (2.0, 1.0)]
    assert front(pairs) == [2]
    assert spread(pairs, 3) == [2]
    assert hypervolume(pairs, (3.0, 0.0)) == 1.0
    assert not dominates((1.0, math.inf), (2.0, 1.0))
