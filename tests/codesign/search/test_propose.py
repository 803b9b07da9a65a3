import itertools
from dataclasses import replace

import pytest

from codesign.candidate import Choice
from codesign.search import Correction, Group, Layer, Limits, Option, propose, propose_among, solve

NAIVE = Correction({})


def test_proposals_are_new_and_distinct(encoder):
    tables = encoder()
    measured = [p.picks for p in solve(tables)[:5]]
    found = propose(tables, NAIVE, measured, 8)
    keys = {tables.candidate(p.picks).key for p in found}
    assert len(keys) == len(found) == 8
    assert not keys & {tables.candidate(p).key for p in measured}


def test_proposals_spread_over_latency(encoder):
    found = sorted(p.seconds for p in propose(encoder(), NAIVE, [], 6))
    assert found[-1] > 3 * found[0]
    assert all(b > 1.05 * a for a, b in itertools.pairwise(found))


def test_goals_come_first(encoder):
    tables = encoder()
    limits = Limits(max_seconds=6e-3, max_loss=0.03)
    fast, good = propose(tables, NAIVE, [], 2, limits=limits)
    frontier = solve(tables)
    assert fast == next(p for p in frontier if p.error <= 0.03)
    assert good == [p for p in frontier if p.seconds <= 6e-3][-1]


def test_far_from_the_goals_nothing_is_built(encoder):
    limits = Limits(max_seconds=8e-3, max_loss=0.01)
    found = propose(encoder(), NAIVE, [], 20, limits=limits)
    assert found
    assert all(p.seconds <= 16e-3 and p.error <= 0.04 for p in found)
    assert all(p.error <= 0.5 for p in propose(encoder(), NAIVE, [], 50))


def test_a_failed_build_is_not_proposed_again(encoder):
    tables = encoder()
    (first,) = propose(tables, NAIVE, [], 1)
    refused = {tables.candidate(first.picks).key}
    assert propose(tables, NAIVE, [], 1, refused=refused) != [first]


def test_an_exhausted_frontier_proposes_nothing(encoder):
    tables = encoder()
    everything = [p.picks for p in solve(tables)]
    assert propose(tables, NAIVE, everything, 3) == []


# several tables ----------------------------------------------------------------------------------


@pytest.fixture
def narrower(encoder):
    """The encoder in another form: everything takes a share of the time, and an error comes with it."""

    def build(seconds, error):
        tables = encoder().mapped(lambda _, o: replace(o, seconds=seconds * o.seconds))
        made = Option((Choice("model", "channels", {"share": 0.5}),), "channels", 0.0, error)
        layers = (Layer("model", (Group("model", (made,)),)), *tables.layers)
        return replace(tables, layers=layers)

    return build


def test_plans_of_several_tables_compete(encoder, narrower):
    both = encoder(), narrower(0.4, 0.05)
    found = propose_among(both, NAIVE, [[], []], 200)
    assert {base for base, _ in found} == {0, 1}
    plans = sorted((plan for _, plan in found), key=lambda p: p.seconds)
    assert all(b.error < a.error for a, b in itertools.pairwise(plans))
    for base, plan in found:
        assert both[base].totals(plan.picks) == pytest.approx((plan.seconds, plan.error))
        made = {c.pass_name for c in both[base].candidate(plan.picks)}
        assert ("channels" in made) == (base == 1)
        assert base == 0 or plan.error >= 0.05


def test_tables_that_gain_nothing_give_no_plan(encoder, narrower):
    found = propose_among([encoder(), narrower(0.99, 0.3)], NAIVE, [[], []], 200)
    assert found
    assert {base for base, _ in found} == {0}


def test_what_was_built_from_either_is_not_proposed_again(encoder, narrower):
    both = encoder(), narrower(0.4, 0.05)
    first = propose_among(both, NAIVE, [[], []], 6)
    done = [[plan.picks for base, plan in first if base == i] for i in range(2)]
    assert all(done)
    again = propose_among(both, NAIVE, done, 6)
    assert not {(b, p.picks) for b, p in first} & {(b, p.picks) for b, p in again}
    keys = {both[b].candidate(p.picks).key for b, p in again}
    assert not keys & {both[b].candidate(p.picks).key for b, p in first}


def test_a_plan_that_takes_no_time_beats_none(encoder, narrower):
    impossible = replace(encoder(), base_seconds=-1.0)  # what disturbed measurements can add up to
    found = propose_among([impossible, narrower(0.4, 0.05)], NAIVE, [[], []], 8)
    assert {base for base, _ in found} == {1}
