"""How busy other processes kept the machine while we measured."""

from __future__ import annotations

import os
import time

import psutil


class LoadMeter:
    """Counts processor time from its creation on.

    The kernel counts in ticks of 10 ms, so a span of 50 ms is known to about 0.2 cores.
    """

    def __init__(self) -> None:
        self._start = self._read()

    def others(self) -> float:
        """Cores that other processes kept busy, on average, since the meter was made."""
        wall, busy, own = (b - a for a, b in zip(self._start, self._read(), strict=True))
        return round(max(0.0, busy - own) / wall, 3) if wall > 0 else 0.0

    @staticmethod
    def _read() -> tuple[float, float, float]:
        cpu = psutil.cpu_times()
        idle = cpu.idle + getattr(cpu, "iowait", 0.0)
        guest = getattr(cpu, "guest", 0.0) + getattr(cpu, "guest_nice", 0.0)  # in user already
        own = os.times()
        return time.perf_counter(), sum(cpu) - idle - guest, own.user + own.system
