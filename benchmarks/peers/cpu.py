"""What the machine is, and how much of it other processes used: read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """CPU seconds since boot: of the whole machine, and of the benchmark's own processes."""

    wall: float
    machine: float
    own: float

    @classmethod
    def now(cls, pids: Iterable[int]) -> Usage:
        """Read it; processes that have ended count nothing."""
        own = sum(_process_seconds(pid) for pid in pids)
        stat = Path("/proc/stat").read_text()
        return cls(time.perf_counter(), machine_seconds(stat, os.sysconf("SC_CLK_TCK")), own)

    def foreign_since(self, before: Usage) -> float:
        """Cores that others used on average since ``before``; time stolen by the host counts."""
        wall = self.wall - before.wall
        return max(0.0, (self.machine - before.machine) - (self.own - before.own)) / wall


def machine_seconds(stat: str, ticks_per_second: int) -> float:
    """Busy CPU seconds in the text of /proc/stat (see proc(5)); guest time is part of user time."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / ticks_per_second


def _process_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def flags() -> frozenset[str]:
    """The CPU's features, as /proc/cpuinfo spells them."""
    return frozenset(_cpuinfo("flags").split())


def name() -> str:
    """The CPU's model name, or the architecture's where the kernel does not say."""
    return _cpuinfo("model name") or os.uname().machine


def _cpuinfo(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        label, _, value = line.partition(":")
        if label.strip() == key:
            return value.strip()
    return ""
