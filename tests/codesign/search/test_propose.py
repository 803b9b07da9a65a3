import itertools

from codesign.search import Correction, Limits, propose, solve

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
