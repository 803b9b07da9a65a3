"""The protocol of the comparison, with contestants that only pretend."""

from __future__ import annotations

import random
from typing import Any

import pytest

from benchmarks.peers import interleave
from benchmarks.peers.cpu import Usage
from benchmarks.peers.interleave import Sweep, Sweeps, choose, measure
from benchmarks.peers.process import ContestantFailedError


class Pretender:
    """Answers blocks with fixed times; dies at the block after ``lives``."""

    pid = 0

    def __init__(self, ms: float, calls: list[str], name: str, lives: int = 1000) -> None:
        self.ms, self.calls, self.name, self.lives = ms, calls, name, lives

    def ask(self, do: str, deadline: float, **arguments: Any) -> dict[str, Any]:
        assert do == "block"
        self.calls.append(self.name)
        self.lives -= 1
        if self.lives < 0:
            raise ContestantFailedError("gone")
        return {"ms": [self.ms, self.ms + 1, 1000.0]}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave, "PAUSE_S", 0.0)


def foreign(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    left = iter(values)
    monkeypatch.setattr(Usage, "foreign_since", lambda self, before: next(left))


def test_everybody_has_one_block_a_sweep_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(monkeypatch, [0.0] * 12)
    calls: list[str] = []
    processes: Any = {n: Pretender(i, calls, n) for i, n in enumerate("abcd")}
    sweeps, failures = measure(processes, 12, 0.15, seed=3, progress=lambda _: None)
    turns = ["".join(calls[i : i + 4]) for i in range(0, 48, 4)]
    assert all(sorted(turn) == list("abcd") for turn in turns)
    assert len(set(turns)) > 6
    assert sweeps.of("c") == [3.0] * 12  # the block's median
    assert not failures


def test_noisy_sweeps_are_discarded_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(monkeypatch, [0.9, 0.0, 0.1, 0.3, 0.15, 0.0, 0.0])
    processes: Any = {"a": Pretender(1, [], "a")}
    sweeps, _ = measure(processes, 5, 0.15, seed=0, progress=lambda _: None)
    assert (len(sweeps.kept), sweeps.discarded, sweeps.quiet) == (5, 2, True)


def test_a_noisy_machine_ends_after_three_times_the_sweeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = [1.0 + i / 100 for i in range(18)]
    random.Random(0).shuffle(noise)
    foreign(monkeypatch, noise)
    processes: Any = {"a": Pretender(1, [], "a")}
    sweeps, _ = measure(processes, 6, 0.15, seed=0, progress=lambda _: None)
    assert not sweeps.quiet
    assert [s.foreign for s in sweeps.kept] == sorted(noise)[:5]
    assert sweeps.discarded == 13


def test_a_contestant_that_dies_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(monkeypatch, [0.0] * 6)
    calls: list[str] = []
    processes: Any = {"a": Pretender(1, calls, "a"), "b": Pretender(2, calls, "b", lives=2)}
    sweeps, failures = measure(processes, 6, 0.15, seed=0, progress=lambda _: None)
    assert failures == {"b": "gone"}
    assert (len(sweeps.of("a")), len(sweeps.of("b")), calls.count("b")) == (6, 2, 3)


def test_ratios_use_sweeps_that_have_both() -> None:
    kept = [Sweep({"a": 2.0, "b": 1.0}, 0), Sweep({"a": 9.0}, 0), Sweep({"a": 3.0, "b": 2.0}, 0)]
    assert Sweeps(kept, 0, True).ratios("a", "b") == [2.0, 1.5]


def test_a_few_quiet_sweeps_are_enough_if_few_were_asked_for() -> None:
    assert choose([Sweep({}, 0.0)] * 3, 0.15).quiet
    assert not choose([Sweep({}, 0.0)] * 3 + [Sweep({}, 1.0)] * 6, 0.15).quiet
