"""Measure a bundle on this machine, with the state of the machine around it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from codesign.bundle import Bundle, open_bundle
from codesign.conditions import (
    OPEN,
    DeviceState,
    Meter,
    Outcome,
    affinity,
    battery_meter,
    choose,
    command_meter,
    local_clusters,
    local_meter,
    noted,
    read_local_state,
    wait_until_fit,
)
from codesign.conditions.noted import brief
from codesign.device import this_device
from codesign.errors import UserError
from codesign.long_run import LongRun, long_run
from codesign.measure import Rig
from codesign.measurement import Measurement, Protocol
from codesign.station import open_station
from codesign.where import Where
from codesign.worker import Failure
from targets.target import find

_STATE_SECONDS = 10.0
DEFAULT_REPEATS = 30
_WORDS = {"temperature_c": "°C", "battery_percent": "% of battery", "load": "processors busy"}


@dataclass(frozen=True)
class Conditions:
    """Under which conditions to measure.

    Attributes:
        minutes: of work without a pause after the burst; 0: none.
        cores: ``all``, ``big``, ``little``, or numbers as in ``0-3,6``.
        max_temperature_c: wait until the machine is no hotter; None: begin at once.
        patience_seconds: longest wait for that.
        meter: command of a meter of energy; None: what the machine has itself.
    """

    minutes: float = 0.0
    cores: str = "all"
    max_temperature_c: float | None = None
    patience_seconds: float = 300.0
    meter: tuple[str, ...] | None = None

    def energy_meter(self) -> Meter:
        return local_meter() if self.meter is None else command_meter(self.meter)


@dataclass(frozen=True)
class Benched:
    """A bundle's latency here and now; what was seen around it is in the measurement's meta."""

    bundle: Bundle
    measurement: Measurement
    protocol: Protocol
    run: LongRun
    before: DeviceState
    after: DeviceState
    gate: Outcome | None = None
    device: str = ""

    @property
    def flags(self) -> list[str]:
        """What is suspicious, in sentences."""
        return list(self.measurement.meta.get("flags", ()))

    def as_dict(self) -> dict[str, Any]:
        """For programs; all samples included."""
        long = self.run.sustained
        return {
            "bundle": str(self.bundle.path),
            "device": self.device or this_device(),
            "emulated": bool(self.measurement.meta.get("emulated")),
            "latency_ms": self.measurement.seconds * 1e3,
            "latency_interval_ms": [self.measurement.lo * 1e3, self.measurement.hi * 1e3],
            "samples_ms": [s * 1e3 for s in self.measurement.samples],
            "other_load": self.measurement.load,
            "protocol": self.protocol.to_json(),
            "state": {"before": self.before.to_json(), "after": self.after.to_json()},
            "gate": self.gate.to_json() if self.gate else None,
            "flags": self.flags,
            "energy": self.run.energy.to_json(),
            "sustained": long.to_json() if long else None,
        }

    def table(self) -> Table:
        """For people."""
        m = self.measurement
        where = self.device or "this machine"
        if m.meta.get("emulated") and not where.endswith("emulated"):
            where += ", emulated"
        table = Table(title=f"{self.bundle.path} on {where}")
        for heading in (
            "median ms",
            "95 % interval",
            "fastest",
            "slowest",
            "threads",
            "cores",
            "other load",
        ):
            table.add_column(heading, justify="right", no_wrap=heading == "95 % interval")
        table.add_row(
            _ms(m.seconds), f"{_ms(m.lo)} to {_ms(m.hi)}", _ms(min(m.samples)), _ms(max(m.samples)),
            str(self.bundle.threads), affinity.format(self.protocol.affinity) or "all",
            f"{m.load:.2f} cores",
        )  # fmt: skip
        return table

    def tables(self) -> list[Table]:
        """The burst, and the minutes of a long run if there was one."""
        long = self.run.sustained
        if long is None:
            return [self.table()]
        table = Table(title=f"a long run, {long.label}")
        for heading in ("from s", "median ms", "95 % interval", "blocks"):
            table.add_column(heading, justify="right")
        for t in long.per_minute:
            interval = f"{_ms(t.lo)} to {_ms(t.hi)}"
            table.add_row(f"{t.start:.0f}", _ms(t.seconds), interval, str(t.count))
        return [self.table(), table]

    def lines(self) -> list[str]:
        """What the machine was like, what is suspicious, and the energy."""
        found = [
            f"{when}: {_words(s)}" for when, s in (("before", self.before), ("after", self.after))
        ]
        if self.gate is not None:
            found.append(f"gate: {self.gate}")
        if self.run.sustained is not None:
            found.append(f"sustained: {self.run.sustained}")
        found += [f"flag: {flag}" for flag in self.flags] or ["flags: none"]
        if self.measurement.meta.get("emulated"):
            found.append("EMULATED: these are an emulator's times and say nothing of any device")
        return [*found, str(self.run.energy)]


def bench_on_device(
    path: Path,
    where: Where,
    repeats: int = DEFAULT_REPEATS,
    conditions: Conditions | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Benched:
    """Time a bundle on a device over RPC: calls of its function there, without the way of in- and outputs.

    Args:
        where: the device; its ``cpus`` come from the conditions.
        conditions: as for `bench_bundle`; energy comes from the device's battery if no meter is given.

    Raises:
        UserError: it is no bundle or does not run there, there is no such device, or it did not cool down.
    """
    asked = conditions or Conditions()
    bundle = open_bundle(path, to_run=False)
    cpus = "" if asked.cores == "all" else asked.cores
    on = replace(where, threads=bundle.threads, cpus=cpus)
    with open_station(on, say=say, made_for=bundle.manifest["target"]) as station:
        rig = station.rig
        blocks = min(repeats, rig.protocol.repeats * 3)
        if blocks < repeats and repeats != DEFAULT_REPEATS:
            why = "an emulator's times are not worth more" if station.emulated else "at most there"
            say(f"{blocks} timed blocks in place of {repeats}: {why}")
        rig.protocol = replace(rig.protocol, repeats=blocks)

        def read_state() -> DeviceState:
            told = rig.ask("ask_device", {"what": "device.state"}, deadline=_STATE_SECONDS)
            found = None if isinstance(told, Failure) else told.result
            return DeviceState.from_json(found or {})

        meter = battery_meter(read_state) if asked.meter is None else command_meter(asked.meter)
        made = _benched(rig, bundle, asked, read_state, meter, say)
        return replace(made, device=station.device)


def bench_bundle(
    path: Path,
    repeats: int = DEFAULT_REPEATS,
    conditions: Conditions | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
    read_state: Callable[[], DeviceState] = read_local_state,
) -> Benched:
    """Time a bundle end to end in a process of its own.

    Args:
        path: folder of the bundle.
        repeats: timed blocks.
        conditions: default: at once, on all processors, without a long run.
        say: told why and how long it waits.
        read_state: asks the machine for its state.

    Raises:
        UserError: it is no bundle, is damaged, is for another machine, or does not run; the machine has no such
            processors, or did not cool down.
    """
    asked = conditions or Conditions()
    bundle = open_bundle(path)
    protocol = Protocol(threads=bundle.threads, repeats=repeats, affinity=_cores(asked, bundle))
    with Rig(find("host", bundle.threads), protocol) as rig:
        return _benched(rig, bundle, asked, read_state, asked.energy_meter(), say)


def _benched(
    rig: Rig,
    bundle: Bundle,
    asked: Conditions,
    read_state: Callable[[], DeviceState],
    meter: Meter,
    say: Callable[[str], None],
) -> Benched:
    """The burst, and the long run if one is asked for, with the state around them."""
    gate = _cooled(asked, read_state, say)
    before = read_state()
    (measurement,) = rig.bundles([bundle.path])
    if not measurement.ok:
        raise UserError(
            "the bundle does not run here", got=measurement.error or "", next="codesign doctor"
        )
    run = long_run(rig, bundle.path, measurement.seconds, asked.minutes, meter)
    after = read_state()
    measurement = noted(measurement, (), before, after, gate=gate, energy=run.energy)
    return Benched(bundle, measurement, rig.protocol, run, before, after, gate)


def _cores(asked: Conditions, bundle: Bundle) -> tuple[int, ...]:
    if asked.cores == "all":
        return ()
    available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    cores = choose(asked.cores, local_clusters(), available)
    if len(cores) < bundle.threads:
        raise UserError(
            "the bundle has more threads than there are processors for it",
            got=f"{bundle.threads} threads, --cores {affinity.format(cores)}",
            allowed=f"{bundle.threads} processors or more",
            next=f"give more, or compile it with --threads {len(cores)}",
        )
    return cores


def _cooled(
    asked: Conditions, read_state: Callable[[], DeviceState], say: Callable[[str], None]
) -> Outcome | None:
    if asked.max_temperature_c is None:
        return None
    gate = replace(OPEN, max_temperature_c=asked.max_temperature_c)
    outcome = wait_until_fit(read_state, gate, asked.patience_seconds, say=say)
    if outcome.status == "unfit":
        raise UserError(
            "the machine did not cool down", got=str(outcome),
            allowed=f"{asked.max_temperature_c:g} °C within {asked.patience_seconds:g} s",
            next="stop what heats it, or raise --max-temperature or --patience",
        )  # fmt: skip
    return outcome


def _ms(seconds: float) -> str:
    """Milliseconds; of a time below a tenth of one, three digits."""
    ms = seconds * 1e3
    return f"{ms:.3f}" if ms >= 0.1 else f"{ms:.3g}"


def _words(state: DeviceState) -> str:
    """``k10temp 52 °C, 0.1 processors busy``; what is not told is left out."""
    told = brief(state)
    parts = [f"{told[key]:g} {word}" for key, word in _WORDS.items() if key in told]
    if "clock_share" in told:
        parts.append(f"slowest clock at {told['clock_share']:.0%}")
    parts += ["throttled"] if state.throttled else []
    return ", ".join(parts) or "the machine tells nothing of its state"
