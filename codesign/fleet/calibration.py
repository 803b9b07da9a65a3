"""How fast each device is: what the reference kernel takes there, so that times can be compared."""

from __future__ import annotations

import threading
from collections import defaultdict, deque

from codesign.measurement import median

RESTLESS = 2.0
"""A device whose reference kernel takes so many times its usual time is not itself."""

_KEPT = 64


class Calibration:
    """The reference kernel's seconds on each device, as measurements bring them."""

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._lock = threading.Lock()

    def add(self, device: str, seconds: float) -> str:
        """Note what the reference kernel took in one measurement.

        Returns:
            What is unusual about it, in words; "" if nothing.
        """
        with self._lock:
            known = self._seconds[device]
            usual = median(list(known)) if known else seconds
            known.append(seconds)
        if seconds > RESTLESS * usual:
            return f"the device ran at {usual / seconds:.2f} of its usual speed"
        return ""

    def usual(self) -> dict[str, float]:
        """Device -> median seconds of its reference kernel."""
        with self._lock:
            return {d: median(list(s)) for d, s in self._seconds.items()}
