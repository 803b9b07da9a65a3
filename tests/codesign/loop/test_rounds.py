"""When a search takes up further bases, and how their plans come to be built: what is built is made up."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codesign.candidate import Candidate, Choice
from codesign.config import Budget, Goal, SweepConfig
from codesign.loop.bases import Base, Bases
from codesign.loop.rounds import Rounds
from codesign.loop.tabling import Tabled
from codesign.measurement import summarize
from codesign.progress import Silent
from codesign.records.entries import Evaluation
from codesign.search import Group, Layer, Option, Tables

WIDE = Base(None, None, None, ())  # type: ignore[arg-type]
MADE = Choice("model", "channels", {"share": 0.5, "widths": {"stem.channels": 32}})
NARROW = replace(WIDE, choices=(MADE,), error=0.02)
SPACE: Any = None


def tables(base: Base, seconds: float) -> Tables:
    """Six sections that may be int8."""
    layers = []
    for i in range(6):
        int8 = Option((Choice(f"block{i}", "int8"),), "int8", 0.4 * seconds, 1e-3 * (i + 1))
        dense = Option((), "dense", seconds, 0.0)
        layers.append(Layer(f"block{i}", (Group(f"block{i}", (dense, int8)),)))
    if base.choices:
        made = Option(base.choices, "channels", 0.0, base.error)
        layers.insert(0, Layer("model", (Group("model", (made,)),)))
    return Tables(tuple(layers), 1e-4)


class Judge:
    """Builds nothing; a candidate takes and loses twice what the tables say."""

    def __init__(self, known: list[Tabled]) -> None:
        self.bases = Bases([k.base for k in known])
        self.tables = {k.base: k.tables for k in known}
        self.built: list[Candidate] = []

    def totals(self, candidate: Candidate) -> tuple[float, float]:
        own = self.tables[self.bases.of(candidate)]
        taken = [
            next(o for o in g.options if not o.choices or set(o.choices) <= set(candidate.choices))
            for g in (replace(g, options=g.options[::-1]) for g in own.groups)
        ]
        return own.base_seconds + sum(o.seconds for o in taken), sum(o.error for o in taken)

    def solve(self, candidates: Any, goes_on: Any) -> dict[str, Any]:
        return dict.fromkeys((c.key for c in candidates), None)

    def build(self, candidate: Candidate, solved: Any) -> tuple[Any, float]:
        self.built.append(candidate)
        seconds, error = self.totals(candidate)
        return SimpleNamespace(kernel_seconds=seconds, calls=8), 2 * error

    def latency(self, candidate: Candidate, built: Any, dense: Any) -> Any:
        return replace(summarize([2 * built.kernel_seconds] * 5), ratio=built.kernel_seconds / 7e-3)

    def quality(self, wanted: Any, function: Any, tag: str) -> list[Evaluation]:
        return [Evaluation({"accuracy": 1.0 - e}, e) for _, _, e in wanted]


def search(budget: Budget, deadline: float) -> tuple[Rounds, Any]:
    """The rounds over two bases, run; and how many candidates were built when each base came."""
    known = [
        Tabled(WIDE, SPACE, tables(WIDE, 1e-3)),
        Tabled(NARROW, SPACE, tables(NARROW, 4e-4)),
    ]
    judge: Any = Judge(known)
    asked: list[int] = []

    def more() -> Tabled | None:
        asked.append(len(judge.built))
        return known[1] if len(asked) == 1 else None

    dense: Any = SimpleNamespace(
        candidate=Candidate(),
        built=SimpleNamespace(
            kernel_seconds=6.1e-3, calls=8, bundle=SimpleNamespace(path=Path("dense"))
        ),
        latency=summarize([1.22e-2] * 5),
        evaluation=Evaluation({"accuracy": 1.0}, 0.0),
    )
    config = SweepConfig("m.py:f", "host", "q.py:f", "c.py:f", Goal("accuracy"), budget=budget)
    scorer: Any = SimpleNamespace(function=None, tag="")
    rounds = Rounds(known[:1], more, judge, scorer, config, deadline, Silent(), dense)
    rounds.run()
    return rounds, asked


def test_without_a_limit_of_time_all_bases_are_there_from_the_start() -> None:
    rounds, asked = search(Budget(measurements=4), math.inf)
    assert asked[0] == 0
    assert len(rounds.known) == 2
    assert len(rounds.judged) == 4
    assert rounds.judged_of(1)
    assert rounds.judged_of(0)


def test_no_base_delays_the_first_round_where_time_is_short() -> None:
    rounds, asked = search(Budget(minutes=5), time.monotonic() + 300)
    assert asked[0] == 4  # a whole round was built before
    first = [j for j in rounds.judged if j.round == 1]
    assert all(MADE not in j.candidate.choices for j in first)
    assert any(MADE in j.candidate.choices for j in rounds.judged if j.round == 2)
    keys = [j.candidate.key for j in rounds.judged]
    assert len(set(keys)) == len(keys)


def test_after_the_deadline_no_base_is_asked_for() -> None:
    rounds, asked = search(Budget(minutes=1), time.monotonic() - 1)
    assert not asked
    assert {j.round for j in rounds.judged} == {1}


def test_picks_and_corrections_belong_to_their_base() -> None:
    rounds, _ = search(Budget(measurements=12), math.inf)
    for base, known in enumerate(rounds.known):
        for judged in rounds.judged_of(base):
            assert known.tables.candidate(judged.picks) == judged.candidate
            corrected = rounds.corrected()[base].totals(judged.picks)[1]
            assert corrected == pytest.approx(judged.evaluation.output_error, rel=0.3)
    groups = {c.group for c in rounds.changes}
    assert all(g.startswith(("block", "channels 0.5: ")) for g in groups)
