"""Which processors a run uses: the big ones, the little ones, or those given by number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from codesign.conditions import sysfs
from codesign.errors import UserError

_ALIKE = 0.05
"""Highest clocks that differ by less are of one kind: some desktops favour single cores a little."""

_MOST = 4096
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


@dataclass(frozen=True)
class Cluster:
    """Processors of one kind.

    Attributes:
        cpus: their numbers, ascending.
        speed: relative capacity (1024: the fastest), or the highest clock in kHz.
    """

    cpus: tuple[int, ...]
    speed: float


def clusters(
    max_clocks_khz: Mapping[str, float], capacities: Mapping[str, float] | None = None
) -> tuple[Cluster, ...]:
    """Kinds of processors, the slowest first; empty if nothing is told.

    Args:
        max_clocks_khz: as `DeviceState.max_clocks_khz`: processor (``0`` or ``cpu0``) -> kHz.
        capacities: the kernel's own measure (``cpu_capacity``), which counts before clocks, for a little core
            may clock as high as a big one.
    """
    told = capacities if capacities and len(capacities) >= len(max_clocks_khz) else max_clocks_khz
    speeds = {int(name.removeprefix("cpu")): float(speed) for name, speed in told.items()}
    found: list[list[int]] = []
    for cpu in sorted(speeds, key=lambda c: (speeds[c], c)):
        if found and speeds[cpu] <= speeds[found[-1][0]] * (1 + _ALIKE):
            found[-1].append(cpu)
        else:
            found.append([cpu])
    return tuple(Cluster(tuple(sorted(cpus)), max(speeds[c] for c in cpus)) for cpus in found)


def local_clusters(sys: Path = sysfs.SYS) -> tuple[Cluster, ...]:
    """Kinds of processors of this machine."""
    clocks = sysfs.read_state(sys, load_seconds=0)["max_clocks_khz"]
    return clusters(clocks, sysfs.capacities(sys))


def parse(text: str) -> tuple[int, ...]:
    """``"0-3,6"`` as ``(0, 1, 2, 3, 6)``: the form of the kernel's lists of processors.

    Raises:
        UserError: it is none.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if int(first) > int(last) or int(last) >= _MOST:
            raise UserError(
                "these processors could not be read", got=text or "an empty text",
                allowed="big, little, all, or numbers as in 4-7 or 0,2", next="such as 0-3",
            )  # fmt: skip
        found |= set(range(int(first), int(last) + 1))
    return tuple(sorted(found))


def format(cpus: Iterable[int]) -> str:
    """``(0, 1, 2, 3, 6)`` as ``"0-3,6"``."""
    parts: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def choose(
    which: str, kinds: tuple[Cluster, ...], available: Iterable[int] | None = None
) -> tuple[int, ...]:
    """The processors that a user means.

    Args:
        which: ``little``: the slowest kind; ``big``: all that are faster; ``all``: no limit, which is an empty
            result; else numbers.
        kinds: of the device, from `clusters`.
        available: numbers that may be used, if known.

    Raises:
        UserError: it is none of these, the device has one kind only, does not tell, or lacks a processor.
    """
    if which == "all":
        return ()
    if which in ("big", "little"):
        if len(kinds) < 2:
            got = "all are alike" if kinds else "the device does not tell their clocks"
            raise UserError(
                f"there are no {which} processors to choose", got=got,
                allowed="all, or numbers as in 0-3", next="leave it away, or give numbers",
            )  # fmt: skip
        chosen = [c for kind in (kinds[:1] if which == "little" else kinds[1:]) for c in kind.cpus]
    else:
        chosen = list(parse(which))
    known = {c for kind in kinds for c in kind.cpus} if available is None else set(available)
    if known and not set(chosen) <= known:
        raise UserError(
            "some of these processors cannot be used", got=format(set(chosen) - known),
            allowed=format(known), next=f"such as {format(known)}",
        )  # fmt: skip
    return tuple(sorted(chosen))
