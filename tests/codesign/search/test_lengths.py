"""Tables in which a choice shortens the sequence, and with it what all later layers cost."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.candidate import Choice
from codesign.search import Group, Layer, Option, Tables, learn, solve, veto_slow
from codesign.search.correct import Observation

LENGTHS = (8, 4, 2)


def shortening(name, costs, errors):
    """Options "leave it", "4" and "2"; ``costs[to][from]`` where it can be."""
    options = [Option((), "dense", 0.0, 0.0, shorter=(0.0, 0.0))]
    for i, length in enumerate(LENGTHS[1:]):
        seconds, *shorter = costs[i]
        choice = (Choice(name, "tokens", {"keep": length}),)
        options.append(Option(choice, "tokens", seconds, errors[i], shorter=tuple(shorter)))
    return Group(f"{name}.tokens", tuple(options), shortens=True)


@st.composite
def tables(draw):
    number = st.integers(0, 20).map(float)
    layers = []
    for i in range(draw(st.integers(1, 3))):
        costs = [(draw(number), math.inf, math.inf), (draw(number), draw(number), math.inf)]
        first = draw(number)
        groups = [shortening(f"l{i}", costs, (first, first + draw(number)))]
        options = [Option((), "dense", draw(number) + 1, 0.0, shorter=(draw(number), draw(number)))]
        veto = draw(st.sampled_from(["", "refused"]))
        shorter = (draw(number), draw(st.sampled_from([math.inf, 1.0])))
        choice = (Choice(f"l{i}", "ffn"),)
        options.append(Option(choice, "ffn", draw(number), draw(number), veto, shorter))
        groups.append(Group(f"l{i}.ffn", tuple(options)))
        drop = Option((Choice(f"l{i}", "drop"),), "dropped", 0.0, draw(number))
        drop = draw(st.sampled_from([None, drop]))
        base = draw(number), (draw(number), draw(number))
        layers.append(Layer(f"l{i}", tuple(groups), drop, *base))
    return Tables(tuple(layers), draw(number) + 1, LENGTHS)


def cost(problem, ways):
    """(seconds, error) of a plan by walking through it; None if it cannot be. A way is picks or None."""
    seconds, error, length = problem.base_seconds, 0.0, 0
    for layer, way in zip(problem.layers, ways, strict=True):
        if way is None:
            if layer.drop is None:
                return None
            error += layer.drop.error
            continue
        shorten, use = way
        if shorten:
            if shorten <= length:
                return None
            option = layer.groups[0].options[shorten]
            seconds += (option.seconds, *option.shorter)[length]
            error += max(0, option.error - layer.groups[0].options[length].error)
            length = shorten
        option = layer.groups[1].options[use]
        seconds += (option.seconds, *option.shorter)[length]
        error += option.error
        seconds += (layer.base_seconds, *layer.shorter)[length]
        if option.veto or math.isinf(seconds):
            return None
    return seconds, error


def picks_of(ways):
    return tuple(p for way in ways for p in (way or (-1, -1)))


@settings(deadline=None, max_examples=60)
@given(tables())
def test_the_frontier_equals_brute_force(problem):
    ways = [None, *itertools.product(range(3), range(2))]
    plans = {}
    for each in itertools.product(ways, repeat=len(problem.layers)):
        found = cost(problem, each)
        if found is not None:
            plans[picks_of(each)] = found
            assert problem.totals(picks_of(each)) == pytest.approx(found)
    best = {
        p
        for p in plans.values()
        if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in plans.values())
    }
    got = solve(problem)
    assert {(p.seconds, p.error) for p in got} == best
    for plan in got:
        assert plans[plan.picks] == (plan.seconds, plan.error)


def two_layers():
    costs = [(1.0, math.inf, math.inf), (1.0, 1.0, math.inf)]
    ffn = Group("ffn", (Option((), "dense", 100.0, 0.0, shorter=(50.0, 25.0)),))
    layers = [
        Layer(f"l{i}", (shortening(f"l{i}", costs, (0.1, 0.3)), ffn), None, 10.0, (5.0, 2.5))
        for i in range(2)
    ]
    return Tables(tuple(layers), 7.0, LENGTHS)


def test_errors_of_one_schedule_do_not_count_twice():
    """What arrives with 4 of 8 tokens has lost a part of what 2 of 8 lose."""
    problem = two_layers()
    seconds, error = problem.totals((1, 0, 2, 0))
    assert seconds == 7 + 1 + 50 + 5 + 1 + 25 + 2.5
    assert error == pytest.approx(0.1 + (0.3 - 0.1))
    names = [(name, option.label) for name, option in problem.chosen((1, 0, 2, 0))]
    assert names[0] == ("l0.tokens", "tokens 4")
    assert names[2] == ("l1.tokens", "tokens 2")


def test_what_shortens_is_never_vetoed():
    problem = veto_slow(two_layers())
    assert not any(o.veto for g in problem.groups for o in g.options)


def test_learning_sees_what_was_taken():
    """An error twice as large as predicted raises that of the options taken, at their lengths."""
    problem = two_layers()
    seen = [Observation((1, 0, 2, 0), 0.6, 0.1), Observation((0, 0, 1, 0), 0.2, 0.05)]
    factors = learn(problem, seen).factors
    assert factors["l0.tokens", "tokens"] > 1.3
    assert factors["l1.tokens", "tokens"] > 1.3
