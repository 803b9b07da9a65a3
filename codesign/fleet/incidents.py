"""What went wrong with devices in a run, and what it cost. Pure data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Incident:
    """One thing that went wrong with a device, or with what it was asked.

    Attributes:
        at: seconds since the fleet was made.
        device: its serial, or the key where none had answered yet.
        what: in one line.
        lost: seconds that it cost.
        then: what was done about it.
    """

    at: float
    device: str
    what: str
    lost: float
    then: str

    def __str__(self) -> str:
        return f"{self.device}: {self.what}; {self.then} ({self.lost:.1f} s lost)"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Diary:
    """All incidents of a run, and the longest time that anything was waited for.

    Args:
        say: is told every incident as it happens.
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.incidents: list[Incident] = []
        self.longest_wait = 0.0
        self.longest_wait_for = ""
        self.say, self._now, self._began = say, now, now()
        self._lock = threading.Lock()

    def note(self, device: str, what: str, lost: float, then: str) -> None:
        """Keep an incident and tell it; only the first line of ``what`` is kept."""
        first = next(iter(what.strip().splitlines()), "")[:300]
        incident = Incident(self._now() - self._began, device, first, lost, then)
        with self._lock:
            self.incidents.append(incident)
        self.say(str(incident))

    def waited(self, seconds: float, what: str) -> None:
        """Remember the longest wait."""
        with self._lock:
            if seconds > self.longest_wait:
                self.longest_wait, self.longest_wait_for = seconds, what

    @property
    def lost(self) -> float:
        """Seconds lost in all."""
        with self._lock:
            return sum(i.lost for i in self.incidents)

    def to_json(self) -> dict[str, Any]:
        """For the report of a run."""
        return {
            "incidents": [i.to_json() for i in self.incidents],
            "seconds_lost": self.lost,
            "longest_wait_seconds": self.longest_wait,
            "longest_wait_for": self.longest_wait_for,
        }
