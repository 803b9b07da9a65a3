"""A clock that tests turn, a phone that heats up and slows down, and a made-up /sys."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from codesign.conditions.state import Battery, DeviceState


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds


class HotPhone:
    """Newton's law of cooling; above ``limit`` degrees the clock falls with the heat.

    A call takes ``cost`` seconds at the full clock and 4 W; at rest the phone takes 0.5 W.
    """

    def __init__(self, clock: Clock, start_c: float = 30.0, cost: float = 0.01) -> None:
        self.clock, self.cost = clock, cost
        self.temperature, self.ambient, self.limit = start_c, 25.0, 45.0
        self.joules = 0.0
        self.calls = 0
        self._seen = clock.now()
        self._noise = random.Random(7)

    def rest(self) -> None:
        """Let pass what the clock says."""
        self._pass(self.clock.now() - self._seen, 0.5)

    def _pass(self, seconds: float, watts: float) -> None:
        while seconds > 1e-12:
            step = min(seconds, 1.0)
            self.temperature += step * (
                0.25 * (watts - 0.5) - (self.temperature - self.ambient) / 50
            )
            self.joules += step * watts
            seconds -= step
        self._seen = self.clock.now()

    @property
    def share(self) -> float:
        return max(0.4, 1 - 0.08 * max(0.0, self.temperature - self.limit))

    def block(self) -> list[float]:
        """About a second of work: seconds of each of ten stretches."""
        self.rest()
        found = []
        for _ in range(10):
            seconds = self.cost / self.share * self._noise.uniform(0.995, 1.005)
            calls = max(1, round(0.1 / seconds))
            self.clock.seconds += calls * seconds
            self.calls += calls
            self._pass(calls * seconds, 0.5 + 4.0 * self.share)
            found.append(seconds)
        return found

    def state(self) -> DeviceState:
        self.rest()
        names = ["0", "1", "2", "3"]
        return DeviceState(
            temperatures_c={"cpu": self.temperature, "skin": self.temperature - 5},
            clocks_khz=dict.fromkeys(names, 2e6 * self.share),
            max_clocks_khz=dict.fromkeys(names, 2e6),
            governors=dict.fromkeys(names, "performance"),
            load=0.1,
            memory_free_bytes=2 << 30,
            disk_free_bytes=8 << 30,
            battery=Battery(
                percent=80.0,
                status="Discharging",
                current_ua=-1e6 * 0.5 / 3.8,
                voltage_uv=3.8e6,
                energy_uwh=float(int((40_000.0 * 3600 - self.joules * 1e3) / 3600 * 1e3)),
            ),
            throttled=self.share < 1,
            time=self.clock.now(),
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hot_phone(clock: Clock) -> Callable[..., HotPhone]:
    return lambda **options: HotPhone(clock, **options)


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Writes files below a folder and returns it."""

    def write(files: dict[str, str]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return write
