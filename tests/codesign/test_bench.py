"""What `bench` does around the timing: waiting, processors, a long run, energy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from codesign import bench, long_run
from codesign.bench import Benched, Conditions
from codesign.conditions import Cluster, DeviceState, Meter, Reading, flags
from codesign.errors import UserError
from codesign.measurement import Protocol, summarize
from codesign.worker import Failure, Reply

COOL = DeviceState(temperatures_c={"cpu": 40.0}, load=0.1)
HOT = DeviceState(temperatures_c={"cpu": 71.0}, load=0.1, throttled=True)


class FakeRig:
    """Answers requests with calls of 1 ms that become slower, on a clock of its own."""

    def __init__(self, target, protocol):
        self.protocol = protocol
        self.seconds, self.asked, self.fails = 0.0, [], False

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass

    def bundles(self, paths):
        return [summarize([1e-3] * self.protocol.repeats)]

    def ask(self, op, params, *, deadline):
        assert op == "time_bundles"
        self.asked.append(params)
        if self.fails:
            return Failure("crash", "signal 11")
        once = 1e-3 * (1 + min(1.0, self.seconds / 120))
        count = len(params["orders"])
        self.seconds += 3 * once * count
        path = params["paths"][0]
        return Reply({"samples": {path: [once] * count}, "calls": {path: 3 * count}})


@pytest.fixture
def rig(monkeypatch):
    made = []

    def make(target, protocol):
        made.append(FakeRig(target, protocol))
        return made[-1]

    bundle = SimpleNamespace(path=Path("build/model"), threads=2)
    monkeypatch.setattr(bench, "Rig", make)
    monkeypatch.setattr(bench, "open_bundle", lambda path: bundle)
    monkeypatch.setattr(bench, "find", lambda name, threads: name)
    run = long_run.run_sustained
    monkeypatch.setattr(
        long_run,
        "run_sustained",
        lambda block, plan, between: run(block, plan, lambda: made[-1].seconds, between),
    )
    monkeypatch.setattr(bench, "local_meter", lambda: Meter.absent("none", "nothing is told"))
    return made


def test_a_plain_run_says_what_it_saw(rig):
    found = bench.bench_bundle(Path("x"), 10, read_state=lambda: COOL)
    assert rig[0].asked == []  # no meter, no long run
    assert found.lines() == [
        "before: 40 °C, 0.1 processors busy",
        "after: 40 °C, 0.1 processors busy",
        "flags: none",
        "energy: not available: nothing is told",
    ]
    plain = found.as_dict()
    assert plain["state"]["before"]["temperatures_c"] == {"cpu": 40.0}
    assert (plain["flags"], plain["sustained"], plain["gate"]) == ([], None, None)
    assert plain["energy"]["reason"] == "not available: nothing is told"
    assert len(found.tables()) == 1


def test_heat_is_a_flag(rig):
    states = iter([COOL, HOT])
    found = bench.bench_bundle(Path("x"), 10, read_state=lambda: next(states))
    assert "flag: temperature of cpu went from 40 to 71 °C" in found.lines()
    assert "after: 71 °C, 0.1 processors busy, throttled" in found.lines()
    assert found.measurement.meta["flags"] == list(flags([1e-3] * 10, (), COOL, HOT))


def test_a_long_run_shows_the_drop(rig):
    found = bench.bench_bundle(Path("x"), 10, Conditions(minutes=4), read_state=lambda: COOL)
    long = found.run.sustained
    assert len(long.per_minute) == 4
    assert long.drop == pytest.approx(0.5, abs=0.02)
    assert found.run.calls == sum(3 * len(p["orders"]) for p in rig[0].asked[1:])
    assert any(line.startswith("sustained: burst 1.0") for line in found.lines())
    assert [t.row_count for t in found.tables()] == [1, 4]
    assert found.as_dict()["sustained"]["per_minute"][3]["count"] > 0


def test_energy_comes_of_the_meter(rig, monkeypatch):
    clock = lambda: rig[-1].seconds  # noqa: E731
    meter = Meter("bench supply", lambda: Reading(clock(), watts=3.0), now=clock)
    monkeypatch.setattr(bench, "command_meter", lambda words: meter)
    monkeypatch.setattr(meter, "rest", lambda seconds: None)
    found = bench.bench_bundle(Path("x"), 10, Conditions(meter=("m",)), read_state=lambda: COOL)
    assert found.run.energy.joules == pytest.approx(3e-3, rel=0.1)  # 3 W for 1 ms
    assert found.run.sustained is None
    assert "mJ per inference; bench supply, power integrated, gross" in found.lines()[-1]
    assert found.measurement.meta["energy"]["joules"] == found.run.energy.joules


def test_a_machine_that_stays_hot_is_refused(rig):
    told = []
    asked = Conditions(max_temperature_c=50, patience_seconds=0)
    with pytest.raises(UserError, match="did not cool down") as caught:
        bench.bench_bundle(Path("x"), 10, asked, say=told.append, read_state=lambda: HOT)
    assert "71.0 °C at cpu" in caught.value.got
    found = bench.bench_bundle(Path("x"), 10, asked, read_state=lambda: COOL)
    assert "gate: fit" in found.lines()
    silent = bench.bench_bundle(Path("x"), 10, asked, read_state=DeviceState)
    assert "gate: unknown; not told: temperature" in silent.lines()
    assert "before: the machine tells nothing of its state" in silent.lines()
    assert silent.flags == []
    assert silent.as_dict()["gate"]["untold"] == ["temperature"]


def test_processors(rig, monkeypatch):
    kinds = (Cluster((0, 1), 500), Cluster((2, 3), 1024))
    monkeypatch.setattr(bench, "local_clusters", lambda: kinds)
    monkeypatch.setattr(bench.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    found = bench.bench_bundle(Path("x"), 5, Conditions(cores="big"), read_state=lambda: COOL)
    assert found.protocol.affinity == (2, 3)
    assert found.protocol != Protocol(threads=2, repeats=5)
    with pytest.raises(UserError, match="more threads than there are processors"):
        bench.bench_bundle(Path("x"), 5, Conditions(cores="3"), read_state=lambda: COOL)
    with pytest.raises(UserError, match="cannot be used"):
        bench.bench_bundle(Path("x"), 5, Conditions(cores="7-8"), read_state=lambda: COOL)


def test_a_bundle_that_dies_in_a_long_run(rig, monkeypatch):
    monkeypatch.setattr(FakeRig, "ask", lambda *a, **k: Failure("crash", "signal 11"))
    with pytest.raises(UserError, match="stopped running in a long run"):
        bench.bench_bundle(Path("x"), 5, Conditions(minutes=1), read_state=lambda: COOL)


def test_lines_are_the_same_for_equal_results(rig):
    found = bench.bench_bundle(Path("x"), 10, read_state=lambda: COOL)
    assert isinstance(found, Benched)
    assert replace(found).lines() == found.lines()
