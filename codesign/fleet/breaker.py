"""Circuit breakers: a device that fails rests, for longer each time, and comes back on trial.

Nygard, Release It! (2007): closed while all is well, open for a while after failures, then half open: one
success closes it, one failure opens it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_REST = 5.0
"""Seconds that a device rests after it failed once."""

LONGEST_REST = 120.0
"""Seconds that it rests at most; each rest is twice the one before."""


@dataclass
class _Circuit:
    failures: int = 0
    until: float = 0.0


class Breakers:
    """One circuit for each device, by serial.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._circuits: dict[str, _Circuit] = {}
        self._lock = threading.Lock()

    def failed(self, device: str) -> float:
        """The device failed; seconds that it rests now."""
        with self._lock:
            circuit = self._circuits.setdefault(device, _Circuit())
            rest = min(FIRST_REST * 2.0**circuit.failures, LONGEST_REST)
            circuit.failures += 1
            circuit.until = self._now() + rest
            return rest

    def worked(self, device: str) -> bool:
        """The device did what it was asked; True if it had failed before, and is back."""
        with self._lock:
            circuit = self._circuits.get(device)
            if circuit is None or circuit.failures == 0:
                return False
            self._circuits[device] = _Circuit()
            return True

    def resting(self, device: str) -> float:
        """Seconds until the device may be tried again; 0 if it may be used."""
        with self._lock:
            circuit = self._circuits.get(device)
            return max(0.0, circuit.until - self._now()) if circuit is not None else 0.0

    def sick(self) -> tuple[str, ...]:
        """Devices that failed and have not worked since."""
        with self._lock:
            return tuple(d for d, c in self._circuits.items() if c.failures)
