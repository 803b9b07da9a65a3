"""Three objectives against listing every plan of small tables."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.candidate import Choice
from codesign.pareto import front_of
from codesign.search import (
    Correction,
    Group,
    Layer,
    Limits,
    Option,
    Tables,
    propose,
    saved_share,
    solve,
    solve_sized,
    veto_slow,
)

NAIVE = Correction({})


def option(site, name, seconds, error, size, veto=""):
    choices = (Choice(site, name),) if name else ()
    return Option(choices, name or "dense", seconds, error, veto, size=size)


@st.composite
def small_tables(draw):
    """Whole numbers, so that sums are exact in any order."""
    number = st.integers(0, 20).map(float)
    layers = []
    for i in range(draw(st.integers(1, 3))):
        groups = []
        for j in range(draw(st.integers(1, 2))):
            name = f"l{i}.g{j}"
            options = [option(name, "", draw(number) + 1, 0.0, draw(number))]
            for k in range(draw(st.integers(0, 2))):
                veto = draw(st.sampled_from(["", "", "refused"]))
                numbers = draw(number), draw(number), draw(number)
                options.append(option(name, f"o{k}", *numbers, veto))
            groups.append(Group(name, tuple(options)))
        drop = draw(st.sampled_from([None, option(f"l{i}", "drop", 0.0, draw(number), 0.0)]))
        layer = Layer(f"l{i}", tuple(groups), drop, draw(number), base_size=draw(number))
        layers.append(layer)
    return Tables(tuple(layers), draw(number) + 1, base_size=draw(number))


def every_plan(problem):
    """(seconds, error, size) of all picks, by listing them."""
    per_layer = []
    for layer in problem.layers:
        able = ([i for i, o in enumerate(g.options) if not o.veto] for g in layer.groups)
        ways = list(itertools.product(*able))
        if layer.drop is not None:
            ways.append((-1,) * len(layer.groups))
        per_layer.append(ways)
    picks = [sum(ways, ()) for ways in itertools.product(*per_layer)]
    return {(*problem.totals(p), problem.size(p)) for p in picks}


def nondominated(points):
    return {
        p
        for p in points
        if not any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in points)
    }


@settings(deadline=None)
@given(small_tables(), st.sampled_from([0.0, 0.5, 1.0, 3.0, 1000.0]))
def test_the_frontier_at_a_price_equals_brute_force(problem, price):
    plans = solve(problem, price=price)
    costs = {(s + price * b, e) for s, e, b in every_plan(problem)}
    assert [(p.seconds + price * p.size, p.error) for p in plans] == sorted(nondominated(costs))
    for plan in plans:
        assert (plan.seconds, plan.error) == problem.totals(plan.picks)
        assert plan.size == problem.size(plan.picks)


@settings(deadline=None)
@given(small_tables())
def test_what_is_found_is_on_the_frontier_of_three(problem):
    plans = solve_sized(problem)
    found = [(p.seconds, p.error, p.size) for p in plans]
    everything = every_plan(problem)
    # a price of 0 leaves bytes to chance where seconds and error are equal, and never more than that
    assert len(set(found)) == len(found) == len(front_of(found))
    pairs = nondominated({(s, e) for s, e, _ in everything})
    assert pairs <= {(s, e) for s, e, _ in found}
    smallest = nondominated({(b, e) for _, e, b in everything})
    assert smallest <= {(b, e) for _, e, b in found}


def trade():
    """Eight groups: dense, a fast int8, and a codebook as slow as dense and smaller than int8."""
    layers = []
    for i in range(8):
        name = f"layer{i}.ffn"
        options = (
            option(name, "", 1e-3, 0.0, 4e6),
            option(name, "int8", 4e-4, 1e-3 * (1 + i), 1e6),
            option(name, "codebook", 1e-3, 5e-4 * (1 + i), 0.5e6),
        )
        layers.append(Layer(f"layer{i}", (Group(name, options),)))
    return Tables(tuple(layers), 1e-4, base_size=1e6)


def test_plans_between_the_ends_are_found():
    plans = solve_sized(trade())
    sizes = {p.size for p in plans}
    assert min(sizes) == 1e6 + 8 * 0.5e6
    assert max(sizes) == 1e6 + 8 * 4e6
    mixed = [set(p.picks) for p in plans]
    assert {1, 2} in mixed


@settings(deadline=None, max_examples=30)
@given(st.integers(8, 30), st.integers(0, 40))
def test_the_fastest_plan_within_a_limit_is_near_what_is_found(halves, thousandths):
    problem, size, error = trade(), 1e6 + halves * 0.5e6, thousandths * 1e-3
    within = [(s, e, b) for s, e, b in every_plan(problem) if b <= size and e <= error + 1e-12]
    plans = solve_sized(problem, max_error=error + 1e-12, max_size=size)
    found = [p.seconds for p in plans if p.size <= size and p.error <= error + 1e-12]
    if not within:
        assert not found
        return
    # not every plan lies on a hull: one group's worth of seconds may be missed
    assert min(found) <= min(within)[0] + 6e-4 + 1e-12


def test_without_sizes_it_is_the_plain_frontier():
    plain = trade().mapped(lambda _, o: replace(o, size=0.0))
    found = [(p.seconds, p.error) for p in solve_sized(plain)]
    assert found == [(p.seconds, p.error) for p in solve(plain)]


def test_savings_are_corrected_by_what_bundles_take():
    assert saved_share(100.0, []) == 1.0
    seen = [(p, 100 - 0.8 * (100 - p)) for p in (20.0, 40.0, 60.0, 80.0)]
    one, all_of_them = saved_share(100.0, seen[-1:]), saved_share(100.0, seen)
    assert 0.8 < all_of_them < 0.81 < one < 0.95
    assert saved_share(100.0, [(100.0, 103.0)]) == 1.0  # nothing was to be saved: nothing is learnt


# the veto ----------------------------------------------------------------------------------------


def vetoes(*rows, sized=True):
    options = tuple(option("g", *row) for row in rows)
    tables = Tables((Layer("l", (Group("g", options),)),))
    return [o.veto for o in veto_slow(tables, sized=sized).groups[0].options]


def test_what_is_smaller_is_not_vetoed():
    rows = ("", 4e-4, 0.0, 4e3), ("codebook", 4e-4, 0.1, 1e3)
    assert vetoes(*rows) == ["", ""]
    assert vetoes(*rows, sized=False)[1].startswith("measured 400 us, not faster than dense")


def test_neither_faster_nor_smaller_is_vetoed_with_both_numbers():
    rows = ("", 4e-4, 0.0, 4e3), ("sparse", 4.1e-4, 0.1, 4e3), ("other", 5e-4, 0.2, 3.95e3)
    assert vetoes(*rows) == [
        "",
        "measured 410 us, not faster than dense (400 us) nor smaller (4.0 kB and 4.0 kB), "
        "which loses no more quality",
        "measured 500 us, not faster than dense (400 us) nor smaller (4.0 kB and 4.0 kB), "
        "which loses no more quality",
    ]


def test_a_rival_must_beat_it_in_both():
    fast, small = ("fast", 1e-4, 0.1, 4e3), ("small", 4e-4, 0.1, 1e3)
    between = ("between", 2e-4, 0.2, 2e3)
    assert vetoes(("", 4e-4, 0.0, 4e3), fast, small, between) == ["", "", "", ""]
    best = ("best", 1e-4, 0.15, 1e3)
    assert "best" in vetoes(("", 4e-4, 0.0, 4e3), fast, small, best, between)[-1]


# the goals ---------------------------------------------------------------------------------------


def test_goals_are_met_first_the_fastest_and_the_smallest():
    limits = Limits(max_loss=0.01, sized=True)
    fast, small = propose(trade(), NAIVE, [], 2, limits=limits)
    plans = [p for p in solve_sized(trade(), max_error=0.01) if p.error <= 0.01]
    assert fast.seconds == min(p.seconds for p in plans)
    assert small.size == min(p.size for p in plans)
    assert small.size < fast.size


def test_no_larger_plan_is_proposed_than_asked_for():
    limits = Limits(sized=True, max_size=8e6, focus_loss=0.01)
    found = propose(trade(), NAIVE, [], 30, limits=limits)
    assert found
    assert all(p.size <= 8e6 for p in found)


def test_where_nothing_is_small_enough_the_smallest_is_proposed_once():
    limits = Limits(sized=True, max_size=1e6)
    (only,) = propose(trade(), NAIVE, [], 4, limits=limits)
    assert only.size == min(p.size for p in solve_sized(trade()))
    assert propose(trade(), NAIVE, [only.picks], 4, limits=limits) == []


def test_the_smallest_is_one_that_is_worth_building():
    """What is smallest of all loses everything."""
    wreck = option("l.g", "wreck", 1e-4, 0.9, 0.0)
    some = option("l.g", "some", 1e-3, 0.1, 2e6)
    dense = option("l.g", "", 1e-3, 0.0, 4e6)
    problem = Tables((Layer("l", (Group("l.g", (dense, some, wreck)),)),), 1e-4, base_size=1e6)
    (only,) = propose(problem, NAIVE, [(0,)], 4, limits=Limits(sized=True, max_size=1.5e6))
    assert only.picks == (1,)


def test_proposals_spread_over_size_too():
    found = propose(trade(), NAIVE, [(0,) * 8], 8, limits=Limits(sized=True))
    assert max(p.size for p in found) > 2 * min(p.size for p in found)
    assert len({trade().candidate(p.picks).key for p in found}) == 8


def test_without_the_goal_size_changes_nothing():
    plain = trade().mapped(lambda _, o: replace(o, size=0.0))
    with_sizes, without = (propose(t, NAIVE, [], 20) for t in (trade(), plain))
    assert [p.picks for p in with_sizes] == [p.picks for p in without]


def test_a_dropped_layer_saves_all_its_bytes():
    drop = option("l0", "drop", 0.0, 0.5, 0.0)
    group = Group("l0.g", (option("l0.g", "", 1.0, 0.0, 7.0),))
    problem = Tables((Layer("l0", (group,), drop, 1.0, base_size=3.0),), 1.0, base_size=5.0)
    assert problem.size((0,)) == 15.0
    assert problem.size((-1,)) == 5.0
    assert min(p.size for p in solve(problem)) == pytest.approx(5.0)
