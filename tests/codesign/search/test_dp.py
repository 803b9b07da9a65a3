import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.candidate import Choice
from codesign.search import Group, Layer, Option, Tables, solve


def option(site, name, seconds, error, veto=""):
    choices = (Choice(site, name),) if name else ()
    return Option(choices, name or "dense", seconds, error, veto)


@st.composite
def small_tables(draw, max_layers=3, max_groups=2, max_options=3):
    """Whole-number seconds and errors, so that sums are exact in any order."""
    number = st.integers(0, 20).map(float)
    layers = []
    for i in range(draw(st.integers(1, max_layers))):
        groups = []
        for j in range(draw(st.integers(1, max_groups))):
            name = f"l{i}.g{j}"
            options = [option(name, "", draw(number) + 1, 0.0)]
            for k in range(draw(st.integers(0, max_options - 1))):
                veto = draw(st.sampled_from(["", "", "refused"]))
                options.append(option(name, f"o{k}", draw(number), draw(number), veto))
            groups.append(Group(name, tuple(options)))
        drop = option(f"l{i}", "drop", draw(st.sampled_from([0.0, 1.0])), draw(number))
        layers.append(
            Layer(f"l{i}", tuple(groups), draw(st.sampled_from([None, drop])), draw(number))
        )
    return Tables(tuple(layers), draw(number) + 1)


def every_plan(problem):
    """All picks, by listing them; -1 throughout a dropped layer."""
    per_layer = []
    for layer in problem.layers:
        ways = list(
            itertools.product(
                *([i for i, o in enumerate(g.options) if not o.veto] for g in layer.groups)
            )
        )
        if layer.drop is not None:
            ways.append((-1,) * len(layer.groups))
        per_layer.append(ways)
    return [sum(ways, ()) for ways in itertools.product(*per_layer)]


def nondominated(pairs):
    return {p for p in pairs if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in pairs)}


@settings(deadline=None)
@given(small_tables())
def test_the_frontier_equals_brute_force(problem):
    plans = solve(problem)
    listed = {problem.totals(picks) for picks in every_plan(problem)}
    assert [(p.seconds, p.error) for p in plans] == sorted(nondominated(listed))
    for plan in plans:
        assert problem.totals(plan.picks) == (plan.seconds, plan.error)


@settings(deadline=None)
@given(small_tables(max_options=4), st.integers(4, 40))
def test_coarse_bins_cost_at_most_a_bin_per_step(problem, bins):
    plans = solve(problem, bins=bins)
    slowest = problem.base_seconds + sum(
        layer.base_seconds + sum(max(o.seconds for o in g.options) for g in layer.groups)
        for layer in problem.layers
    )
    slack = (len(problem.groups) + len(problem.layers)) * slowest / bins
    for seconds, error in nondominated({problem.totals(p) for p in every_plan(problem)}):
        assert min(p.error for p in plans if p.seconds <= seconds + slack + 1e-9) <= error


def encoder(groups=24, options=10):
    layers = []
    for i in range(groups // 2):
        own = []
        for j in range(2):
            name = f"layer{i}.{j}"
            ways = [
                option(name, f"o{k}", 1e-3 / (1 + k) * (1 + j + 0.01 * i), 0.01 * k**1.7 * (1 + i))
                for k in range(options)
            ]
            own.append(Group(name, tuple(ways)))
        layers.append(Layer(f"layer{i}", tuple(own), option(f"layer{i}", "drop", 0.0, 3.0), 1e-5))
    return Tables(tuple(layers), 1e-4)


def test_of_ten_to_the_24_plans_a_frontier_of_hundreds_is_left():
    plans = solve(encoder())
    assert 500 < len(plans) <= 2000  # of 2000 bins, one label each at most
    assert all(a.error > b.error for a, b in itertools.pairwise(plans))


def test_limits_cut_both_ends():
    everything = solve(encoder(4, 4))
    middle = everything[len(everything) // 2]
    within = solve(encoder(4, 4), max_seconds=middle.seconds)
    assert within[-1] == middle
    assert solve(encoder(4, 4), max_error=middle.error)[0] == middle
    assert solve(encoder(4, 4), max_seconds=0.0) == []


def test_a_dropped_layer_is_one_choice_and_saves_its_base():
    problem = encoder(4, 2)
    picks = (-1, -1, 0, 0)
    sites = [c.site for c in problem.candidate(picks)]
    assert sites == ["layer0", "layer1.0", "layer1.1"]
    rest = problem.base_seconds + problem.layers[1].base_seconds
    rest += sum(g.options[0].seconds for g in problem.layers[1].groups)
    assert problem.totals(picks)[0] == pytest.approx(rest)


def test_a_group_without_a_way_out_is_refused():
    with pytest.raises(ValueError, match="g0 has no option"):
        Group("g0", (option("g0", "x", 1.0, 0.0, veto="failed"),))


def test_uniform_takes_a_family_wherever_it_is_offered():
    assert encoder(4, 3).uniform("o2") == (2, 2, 2, 2)
    assert encoder(4, 3).uniform("o7") == (0, 0, 0, 0)
