"""Who reaches the final, and how all of them are timed in turns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.candidate import Candidate, Choice
from codesign.loop import finals
from codesign.loop.candidates import Judged
from codesign.loop.finals import lock_step, select
from codesign.loop.onnx_baseline import OnnxBaseline
from codesign.loop.workshop import Built
from codesign.measure import Rig
from codesign.measurement import Measurement, Protocol
from codesign.pareto import front
from codesign.progress import Silent
from codesign.records.entries import Evaluation


def judged(number: int, ratio: float, quality: float) -> Judged:
    candidate = Candidate((Choice(f"layer{number}.ffn", "ffn", {"keep": number + 1}),))
    latency = Measurement(ratio * 1e-3, 0.0, 1.0, (ratio * 1e-3,), ratio)
    return Judged(
        candidate, (number,), cast(Built, None), latency, Evaluation({"q": quality}), 1.0, 1
    )


values = st.floats(0.01, 10.0)


@given(st.lists(st.tuples(values, values), max_size=30), st.integers(1, 12))
def test_the_front_comes_first_and_all_places_are_filled(
    pairs: list[tuple[float, float]], most: int
) -> None:
    everyone = [judged(i, *pair) for i, pair in enumerate(pairs)]
    chosen = select(everyone, "q", most)
    assert len(chosen) == min(most, len(everyone))
    assert len({c.candidate.key for c in chosen}) == len(chosen)
    best = [everyone[i] for i in front(pairs)]
    assert chosen[: len(best)] == best[:most]


def test_what_has_no_ratio_is_left_out() -> None:
    """It used to hold up the selection for ever."""
    everyone = [judged(0, math.nan, 0.9), judged(1, 0.5, 0.8), judged(2, 0.4, math.nan)]
    assert select(everyone, "q") == [everyone[1]]
    assert select(everyone[:1], "q") == []
    assert select([], "q") == []


class FakeRig:
    """Every bundle takes its number of milliseconds, and a little more each turn."""

    def __init__(self) -> None:
        self.protocol = Protocol(repeats=10)
        self.seeds: list[int] = []
        self.repeats: list[int] = []

    def bundles(self, paths: list[Path], *, seed: int) -> list[Measurement]:
        self.seeds.append(seed)
        self.repeats.append(self.protocol.repeats)
        drift = 1e-5 * len(self.seeds)
        return [Measurement(samples=(int(p.name) * 1e-3 + drift,) * 2) for p in paths]


class FakeOnnx:
    def __init__(self) -> None:
        self.calls = 0

    def seconds(self, calls: int) -> float:
        self.calls += calls
        return 5e-3


def test_medians_are_over_all_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finals, "PAUSE", 0.0)
    rig, onnx = FakeRig(), FakeOnnx()
    times, other = lock_step(
        cast(Rig, rig),
        Protocol(repeats=4),
        [Path("1"), Path("3")],
        cast(OnnxBaseline, cast(Any, onnx)),
        Silent(),
        sweeps=5,
    )
    assert [t.seconds for t in times] == pytest.approx([1.03e-3, 3.03e-3])
    assert [len(t.samples) for t in times] == [10, 10]
    assert other is not None
    assert other.seconds == pytest.approx(5e-3)
    assert len(other.samples) == 5 * 4
    assert onnx.calls == 5 * (4 + 1)  # one call each turn to wake it up
    assert len(set(rig.seeds)) == 5  # the order of the bundles changes
    assert rig.repeats == [4] * 5
    assert rig.protocol.repeats == 10  # given back


def test_without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finals, "PAUSE", 60.0)
    times, other = lock_step(cast(Rig, FakeRig()), Protocol(), [Path("2")], None, Silent(), 2)
    assert other is None
    assert len(times) == 1
