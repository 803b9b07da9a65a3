"""Where energy is read: the battery, the processor's own counters (RAPL), or a meter of the user's.

A meter is told when the device rests and when it works; `codesign.conditions.energy` does the rest. One that is
not there says why, and is used like any other.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codesign.conditions import sysfs
from codesign.conditions.energy import Energy, Reading, energy
from codesign.conditions.state import DeviceState, read_local_state

COMMAND_SECONDS = 10.0
"""A meter's command that takes longer is killed."""

_RAPL_STEP = 61e-6
"""Joules; the default unit of the counters (Intel SDM vol. 3, 15.10.1), others are finer."""

_FED = "a battery that is not discharging does not feed the device alone"


_MICROVOLTS = (1.5e6, 60e6)
_MICROAMPERES = (5e3, 20e6)

_NUMBERS = ("joules", "watts", "resolution_joules")


class MeterError(Exception):
    """A meter that could not be read; its text says why."""


class Meter:
    """Takes readings at rest and during a run.

    Args:
        source: its name in reports.
        read: takes a reading; raises MeterError.
        every_seconds: least time between two readings of a run: reading costs energy too.
        now: a clock in seconds.
    """

    def __init__(
        self,
        source: str,
        read: Callable[[], Reading],
        every_seconds: float = 0.5,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.every_seconds = every_seconds
        self.now = now
        self.failure = ""
        """Why it cannot be read; empty as long as it can."""
        self._read = read
        self._rest: list[Reading] = []
        self._run: list[Reading] = []
        self._last = -math.inf

    @classmethod
    def absent(cls, source: str, reason: str) -> Meter:
        """The meter that is not there, for a reason."""
        meter = cls(source, _nothing)
        meter.failure = reason
        return meter

    @property
    def available(self) -> bool:
        return not self.failure

    def rest(self, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Watch the device while it does nothing of ours."""
        self._rest = []
        self._take(self._rest)
        for _ in range(math.ceil(seconds / self.every_seconds)):
            if not self.available:
                return
            sleep(self.every_seconds)
            self._take(self._rest)

    def start(self) -> None:
        """The run begins now."""
        self._run = []
        self._take(self._run)

    def sample(self) -> None:
        """To be called often during the run; it reads when it is time to."""
        if self.now() - self._last >= self.every_seconds:
            self._take(self._run)

    def stop(self, calls: int) -> Energy:
        """The run ended with so many inferences."""
        self._take(self._run)
        if not self.available:
            return Energy.unavailable(self.failure, self.source)
        return energy(self._rest, self._run, calls, self.source)

    def _take(self, readings: list[Reading]) -> None:
        if not self.available:
            return
        try:
            readings.append(self._read())
        except MeterError as error:
            self.failure = str(error)
        self._last = self.now()


def battery_meter(
    read_state: Callable[[], DeviceState] = lambda: read_local_state(load_seconds=0),
    every_seconds: float = 2.0,
    now: Callable[[], float] = time.monotonic,
) -> Meter:
    """The battery of a device: its counter of charge or energy, or current times voltage.

    A counter of charge is taken times the first voltage told, which errs by what the voltage changes during
    the run, about a percent.
    """
    volts: list[float] = []

    def read() -> Reading:
        state = read_state()
        battery = state.battery
        if battery is None:
            raise MeterError("the device tells of no battery")
        if battery.status is None or battery.status.lower() != "discharging":
            raise MeterError(f"the battery is {(battery.status or 'silent').lower()}: {_FED}")
        voltage = _plausible(battery.voltage_uv, _MICROVOLTS)
        current = _plausible(battery.current_ua, _MICROAMPERES)
        if voltage and not volts:
            volts.append(voltage / 1e6)
        joules = watts = None
        if battery.energy_uwh is not None:
            joules = -battery.energy_uwh * 3.6e-3
        elif battery.charge_uah is not None and volts:
            joules = -battery.charge_uah * 3.6e-3 * volts[0]
        if current and voltage:
            watts = current * voltage / 1e12
        if joules is None and watts is None:
            raise MeterError("the battery tells neither its charge nor its current")
        return Reading(now() if state.time is None else state.time, joules, watts)

    return Meter("battery", read, every_seconds, now)


def rapl_meter(sys: Path = sysfs.SYS, now: Callable[[], float] = time.monotonic) -> Meter:
    """The energy of all processor packages by their own counters (RAPL), all programs included."""
    root = sys / "class/powercap"
    zones = [
        zone
        for zone in sorted(root.glob("*rapl:*"))
        if (sysfs.text(zone / "name") or "").startswith("package")
    ]
    if not zones:
        return Meter.absent("RAPL", "the system has no counters of energy (RAPL)")
    if any(sysfs.integer(zone / "energy_uj") is None for zone in zones):
        reason = f"{zones[0] / 'energy_uj'} cannot be read; most systems let only root do so"
        return Meter.absent("RAPL", reason)
    last: dict[Path, int] = {}
    total: dict[Path, int] = {}

    def read() -> Reading:
        for zone in zones:
            value = sysfs.integer(zone / "energy_uj")
            if value is None:
                raise MeterError(f"{zone / 'energy_uj'} cannot be read any more")
            step = value - last.get(zone, value)
            if step < 0:  # it starts again at 0
                step += (sysfs.integer(zone / "max_energy_range_uj") or 0) + 1
            if step < 0:
                raise MeterError(f"{zone / 'energy_uj'} runs backwards")
            last[zone], total[zone] = value, total.get(zone, 0) + step
        return Reading(now(), sum(total.values()) / 1e6, resolution_joules=_RAPL_STEP * len(zones))

    return Meter("RAPL, processor packages", read, now=now)


def command_meter(
    command: Sequence[str],
    deadline: float = COMMAND_SECONDS,
    every_seconds: float = 1.0,
    now: Callable[[], float] = time.monotonic,
) -> Meter:
    """A meter of the user's: a command that prints ``{"joules": 12.5}`` or ``{"watts": 3.2}``, or both.

    Joules count up from any start; ``resolution_joules`` may stand beside them. It runs without a shell, and is
    killed after ``deadline`` seconds.
    """

    def read() -> Reading:
        start = now()
        answer = _answer(_output(command, deadline), command)
        middle = (start + now()) / 2
        return Reading(middle, *(answer.get(key) for key in _NUMBERS))

    return Meter(f"meter {command[0]}" if command else "meter", read, every_seconds, now)


def local_meter(sys: Path = sysfs.SYS, proc: Path = sysfs.PROC) -> Meter:
    """The best meter that this machine has: RAPL, or else its battery; or none, with both reasons."""
    rapl = rapl_meter(sys)
    if rapl.available:
        return rapl
    battery = battery_meter(lambda: read_local_state(sys, proc, load_seconds=0))
    battery.start()
    if battery.available:
        return battery
    return Meter.absent("none", f"{rapl.failure}; {battery.failure}")


def _plausible(value: float | None, limits: tuple[float, float]) -> float | None:
    """The size of a value; None if it cannot be in micro units: some systems tell milli units."""
    return abs(value) if value is not None and limits[0] <= abs(value) <= limits[1] else None


def _nothing() -> Reading:
    raise MeterError("there is no meter")


def _output(command: Sequence[str], deadline: float) -> bytes:
    try:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError, IndexError) as error:
        raise MeterError(f"the meter's command does not start: {error}") from error
    try:
        output, _ = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        raise MeterError(f"the meter's command took over {deadline:g} s and was killed") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout:
            process.stdout.close()
    if process.returncode:
        raise MeterError(f"the meter's command ended with {process.returncode}")
    return output


def _answer(output: bytes, command: Sequence[str]) -> dict[str, float]:
    try:
        found: Any = json.loads(output)
    except ValueError:
        found = None
    numbers = {
        key: float(found[key])
        for key in _NUMBERS
        if isinstance(found, dict) and type(found.get(key)) in (int, float)
    }
    told = numbers.keys() & {"joules", "watts"}
    if not told or not all(math.isfinite(v) for v in numbers.values()):
        got = output[:80].decode(errors="replace").strip() or "nothing"
        raise MeterError(f'{command[0]} printed {got!r}, not {{"joules": N}} or {{"watts": N}}')
    return numbers
