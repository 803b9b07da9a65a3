"""Plans beyond the largest error seen: few in a round, none too few to find what lies there.

The problems are made up: tables whose errors are wrong by family and by option, and qualities that fall with the
true error in several ways. What the search believes it learns from its own measurements only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from codesign.candidate import Choice
from codesign.pareto import hypervolume
from codesign.search import (
    Correction,
    Group,
    Layer,
    Limits,
    Observation,
    Option,
    Tables,
    learn,
    propose,
    solve,
)
from codesign.search.propose import HOPES

Loss = Callable[[float], float]

WORST, AIM, EACH_ROUND = 0.25, 0.01, 4  # as in a sweep
FAMILIES = (("int8", 0.35, 0.002), ("few", 0.5, 0.006), ("fewer", 0.25, 0.03), ("low", 0.6, 0.01))
SEEDS = range(40)


def option(site: str, family: str, seconds: float, error: float) -> Option:
    return Option((Choice(site, family),) if family else (), family or "dense", seconds, error)


def tables_and_truth(rng: np.random.Generator) -> tuple[Tables, Tables]:
    """Three to eight layers of two groups; the true errors differ by a factor of each family and option."""

    def about(value: float, spread: float) -> float:
        return value * math.exp(rng.normal(0.0, spread))

    layers = []
    for i in range(int(rng.integers(3, 9))):
        groups = []
        for name in (f"l{i}.a", f"l{i}.b"):
            size = about(1e-3, 0.5)
            ways = [option(name, "", size, 0.0)]
            for family, share, error in FAMILIES:
                ways.append(option(name, family, about(share * size, 0.15), about(error, 0.8)))
            groups.append(Group(name, tuple(ways)))
        drop = option(f"l{i}", "drop", 0.0, about(0.15, 0.8))
        layers.append(Layer(f"l{i}", tuple(groups), drop, 5e-5))
    tables = Tables(tuple(layers), 2e-4)
    families = {family: about(1.0, 0.5) for family in ("drop", *(f for f, _, _ in FAMILIES))}

    def true(_: str, o: Option) -> Option:
        return replace(o, error=about(o.error * families[o.family], 0.3)) if o.choices else o

    return tables, tables.mapped(true)


def saturating(rng: np.random.Generator) -> Loss:
    """Small at first, then steep, then it can fall no further."""
    middle, power, most = 10 ** rng.uniform(-1.5, 0.5), rng.uniform(1, 4), rng.uniform(0.3, 1)
    return lambda error: most / (1 + (middle / max(error, 1e-12)) ** power)


def growing(rng: np.random.Generator) -> Loss:
    """A power of the error, a quarter lost anywhere between a twentieth of it and five."""
    at, power = 10 ** rng.uniform(-1.3, 0.7), rng.uniform(0.5, 2.5)
    return lambda error: min(1.0, WORST * (error / at) ** power)


@dataclass
class Found:
    """What a search measured, round by round: (seconds as a share of the dense model's, true loss)."""

    rounds: list[list[tuple[float, float]]]
    hopes: list[int]

    def area(self, measurements: int) -> float:
        """Of latency and loss up to the worst, that the first so many measurements dominate."""
        points = [p for each in self.rounds for p in each][:measurements]
        pairs = [(1.0, 0.0), *((seconds, -loss) for seconds, loss in points)]
        return hypervolume(pairs, (1.0 + 1e-6, -WORST))

    def speed(self, measurements: int) -> float:
        """Of the fastest of them that keeps the aim, against the dense model."""
        points = [p for each in self.rounds for p in each][:measurements]
        return 1 / min([1.0, *(seconds for seconds, loss in points if loss <= AIM)])

    @property
    def wasted_rounds(self) -> int:
        """Rounds after the first of which more than one candidate was of no use."""
        return sum(sum(loss > WORST for _, loss in each) > 1 for each in self.rounds[1:])


def search(
    tables: Tables, truth: Tables, loss: Loss, total: int, seed: int, hopes: int = HOPES
) -> Found:
    """Rounds of four until so many are measured, with some noise in what is seen."""
    rng = np.random.default_rng(seed)
    dense = (0,) * len(tables.groups)
    whole = truth.totals(dense)[0]
    seen: list[Observation] = []
    found, correction = Found([], []), Correction({})
    while len(seen) < total:
        believed = correction.apply(tables)
        measured = [dense, *(o.picks for o in seen)]
        limits = Limits(worst_loss=WORST, focus_loss=AIM)
        plans = propose(believed, correction, measured, EACH_ROUND, limits=limits, hopes=hopes)
        if not plans:
            break
        found.hopes.append(sum(correction.hopes(p.error) for p in plans))
        found.rounds.append([])
        for plan in plans:
            seconds, error = truth.totals(plan.picks)
            lost = loss(error)
            found.rounds[-1].append((seconds / whole, lost))
            told = error * (1 + 0.05 * rng.normal()), lost + 0.002 * rng.normal()
            seen.append(Observation(plan.picks, *told))
        correction = learn(tables, seen)
    return found


@pytest.mark.parametrize("shape", [saturating, growing], ids=lambda shape: shape.__name__)
def test_few_hopes_find_no_worse_a_frontier_and_waste_fewer_rounds(
    shape: Callable[[np.random.Generator], Loss],
) -> None:
    few: list[Found] = []
    many: list[Found] = []
    ideal = []
    for seed in SEEDS:
        rng = np.random.default_rng(1000 + seed)
        tables, truth = tables_and_truth(rng)
        loss = shape(rng)
        plans = [truth.totals(p.picks) for p in solve(truth)]
        whole = truth.totals((0,) * len(truth.groups))[0]
        best = Found([[(seconds / whole, loss(error)) for seconds, error in plans]], [])
        ideal.append((best.area(len(plans)), best.speed(len(plans))))
        few.append(search(tables, truth, loss, 12, seed))
        many.append(search(tables, truth, loss, 12, seed, hopes=EACH_ROUND))

    def shares(searches: list[Found], measurements: int) -> tuple[float, float]:
        """Of the true frontier's area and of its speed at the aim, on average."""
        pairs = list(zip(searches, ideal, strict=True))
        area = np.mean([f.area(measurements) / a for f, (a, _) in pairs])
        return float(area), float(np.mean([f.speed(measurements) / s for f, (_, s) in pairs]))

    for measurements in (8, 12):
        (area, speed), (other_area, other_speed) = (
            shares(searches, measurements) for searches in (few, many)
        )
        print(
            f"{shape.__name__}, {measurements} measurements: of the true frontier's area {area:.4f} with few"
            f" hopes, {other_area:.4f} with any; of its speed at the aim {speed:.4f} and {other_speed:.4f}"
        )
        assert area > other_area - 0.005
        assert speed > other_speed - 0.01  # one problem in forty that is a third off makes so much
    wasted, other = (sum(f.wasted_rounds for f in searches) for searches in (few, many))
    print(f"{shape.__name__}: {wasted} and {other} rounds with two or more of no use")
    assert wasted <= 0.7 * other


MADE_UP = [tables_and_truth(np.random.default_rng(seed)) for seed in range(12)]


def test_where_losses_are_steep_behind_what_was_seen_a_round_is_not_spent_on_them() -> None:
    """A tenth lost at the largest errors of the first round, and all at four times of these."""

    def steep(error: float) -> float:
        return min(1.0, 0.3 * error if error < 0.3 else 0.09 + 2 * (error - 0.3))

    few = [search(*problem, steep, 12, seed) for seed, problem in enumerate(MADE_UP)]
    many = [search(*problem, steep, 12, seed, EACH_ROUND) for seed, problem in enumerate(MADE_UP)]
    for found in few:
        assert found.hopes[0] == 0  # nothing was seen, so that nothing is beyond it
        assert all(hopes <= 1 for hopes in found.hopes)
    assert any(hopes > 1 for found in many for hopes in found.hopes)
    for measurements in (8, 12):
        area, other = (np.mean([f.area(measurements) for f in each]) for each in (few, many))
        print(
            f"steep, {measurements} measurements: area {area:.4f} with few hopes, {other:.4f} with any"
        )
        assert area > other
    wasted, other_wasted = (sum(f.wasted_rounds for f in each) for each in (few, many))
    print(f"steep: {wasted} and {other_wasted} rounds with two or more of no use")
    assert wasted < other_wasted / 2


@pytest.mark.parametrize(("tables", "truth"), MADE_UP[:5])
def test_one_hope_a_round_reaches_what_is_milder_than_thought(
    tables: Tables, truth: Tables
) -> None:
    """The loss ends at six percent, whatever the error: the fastest plan of all is worth having."""

    def ends(error: float) -> float:
        return 0.06 * (1 - math.exp(-error / 0.02))

    found = search(tables, truth, ends, 16, 0)
    assert all(hopes <= 1 for hopes in found.hopes)
    assert sum(found.hopes) > 0
    fastest = [min(seconds for seconds, _ in each) for each in found.rounds]
    assert min(fastest[1:]) < 0.5 * fastest[0]


@pytest.mark.parametrize(("tables", "truth"), MADE_UP[:5])
def test_where_the_aim_lies_beyond_all_that_was_seen_a_round_may_hope(
    tables: Tables, truth: Tables
) -> None:
    found = search(tables, truth, lambda error: 0.001 * error, 12, 0)
    assert max(found.hopes) > 1
    whole = truth.totals((0,) * len(truth.groups))[0]
    best = min(p.seconds for p in solve(truth)) / whole
    assert 1 / found.speed(12) < 1.2 * best
