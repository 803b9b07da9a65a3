import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from codesign.pareto import dominates, front, front_of, frontier, hypervolume, spread

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


def below(a, b):
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[coordinate] * n), max_size=14)))
def test_the_front_of_any_dimension_is_what_nothing_dominates(costs):
    chosen = [costs[i] for i in front_of(costs)]
    assert chosen == sorted({p for p in costs if not any(below(q, p) for q in costs)})


@given(points)
def test_both_fronts_agree_on_two_objectives(pairs):
    assert front_of([(latency, -quality) for latency, quality in pairs]) == front(pairs)


@given(st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=12))
def test_bytes_count_where_they_are_asked_for(triples):
    three = [triples[i] for i in frontier(triples, sized=True)]
    assert {triples[i][:2] for i in frontier(triples, sized=False)} <= {p[:2] for p in three}
    assert [p[0] for p in three] == sorted(p[0] for p in three)
    assert frontier(triples, sized=False) == front([p[:2] for p in triples])


def test_of_equal_points_the_first_is_kept_and_nan_is_nowhere():
    assert front_of([(1.0, 2.0, 3.0), (1.0, 2.0, 3.0), (0.0, math.nan, 0.0)]) == [0]
    assert front_of([]) == []


def test_spread_takes_all_ends_of_three_axes():
    cube = [(float(x), float(y), float(z)) for x in range(3) for y in range(3) for z in range(3)]
    corner = [(2.0, 0.0, 0.0), (0.0, 2.0, 0.0), (2.0, 0.0, 2.0)]
    middle = [p for p in cube if p not in corner and 1.0 in p]
    chosen = spread([*middle, (0.0, 0.0, 0.0), (9.0, 9.0, 0.0), (9.0, 0.0, 9.0)], 3)
    n = len(middle)
    assert chosen == [n, n + 1, n + 2] or {n + 1, n + 2} <= set(chosen)


def test_nan_is_nowhere():
    pairs = [(1.0, math.nan), (math.inf, 5.0), (2.0, 1.0)]
    assert front(pairs) == [2]
    assert spread(pairs, 3) == [2]
    assert hypervolume(pairs, (3.0, 0.0)) == 1.0
    assert not dominates((1.0, math.inf), (2.0, 1.0))
