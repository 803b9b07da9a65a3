"""What Linux tells of a machine's state in /proc and /sys. Standard library only: it runs on phones too.

Nothing is invented: what the system does not tell is absent or None. Sources: the kernel's documents
``Documentation/ABI/testing/sysfs-class-{thermal,power}``, ``sysfs-devices-system-cpu`` and ``hwmon/sysfs-interface``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SYS, PROC = Path("/sys"), Path("/proc")

_PLAUSIBLE = (-40.0, 150.0)
"""Degrees outside are what a sensor reports that is off."""

_NO_HEAT = re.compile(r"soc|.*(vbat|ibat|bcl).*", re.IGNORECASE)
"""Zones in which some phones tell their charge in percent, millivolts or milliamperes."""

_COOLING = ("thermal-cpufreq", "cpufreq", "processor")
_RASPBERRY = "devices/platform/soc/soc:firmware/get_throttled"
_RASPBERRY_NOW = 0xF
"""Low bits: under-voltage, capped clock, throttled, soft limit, at this moment."""


def read_state(
    sys: Path = SYS,
    proc: Path = PROC,
    disk: Path = Path("/"),
    *,
    load_seconds: float = 0.2,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """The state of this machine as a JSON object; see `codesign.conditions.DeviceState`.

    Args:
        sys, proc: roots of the two file systems.
        disk: a folder on the disk whose free space is asked.
        load_seconds: how long the load is observed; 0 for no load.
    """
    load = _load(proc, load_seconds, sleep)
    return {
        "temperatures_c": _temperatures(sys),
        "clocks_khz": _per_cpu(sys, "cpufreq/scaling_cur_freq"),
        "max_clocks_khz": _per_cpu(sys, "cpufreq/cpuinfo_max_freq"),
        "governors": _governors(sys),
        "load": load,
        "memory_free_bytes": _memory(proc),
        "disk_free_bytes": _disk(disk),
        "battery": _battery(sys),
        "throttled": _throttled(sys),
        "time": now(),
    }


def capacities(sys: Path = SYS) -> dict[str, int]:
    """Relative speed of each processor (1024: the fastest), where the kernel tells it."""
    return _per_cpu(sys, "cpu_capacity")


def text(path: Path) -> str | None:
    """The content of a small file without blanks around it, or None."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:  # absent, forbidden, or a sensor that does not answer now
        return None


def integer(path: Path) -> int | None:
    """A whole number in a file, or None."""
    found = text(path)
    try:
        return None if found is None else int(found)
    except ValueError:
        return None


def _folders(path: Path, prefix: str) -> list[Path]:
    """Folders ``prefix0``, ``prefix1``, ..., in the order of their numbers."""
    try:
        names = os.listdir(path)
    except OSError:
        return []
    numbers = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [path / f"{prefix}{n}" for n in sorted((n for n in numbers if n.isdigit()), key=int)]


def _cpus(sys: Path) -> list[Path]:
    return _folders(sys / "devices/system/cpu", "cpu")


def _number(cpu: Path) -> str:
    return cpu.name.removeprefix("cpu")


def _per_cpu(sys: Path, file: str) -> dict[str, int]:
    found = {_number(cpu): integer(cpu / file) for cpu in _cpus(sys)}
    return {cpu: value for cpu, value in found.items() if value is not None and value > 0}


def _governors(sys: Path) -> dict[str, str]:
    found = {_number(cpu): text(cpu / "cpufreq/scaling_governor") for cpu in _cpus(sys)}
    return {cpu: value for cpu, value in found.items() if value is not None}


def _temperatures(sys: Path) -> dict[str, float]:
    readings: list[tuple[str, int | None]] = []
    for zone in _folders(sys / "class/thermal", "thermal_zone"):
        readings.append((text(zone / "type") or zone.name, integer(zone / "temp")))
    for chip in _folders(sys / "class/hwmon", "hwmon"):
        for file in sorted(chip.glob("temp*_input")):
            label = text(chip / file.name.replace("_input", "_label"))
            readings.append((" ".join(filter(None, (text(chip / "name"), label))), integer(file)))
    found: dict[str, float] = {}
    for name, value in readings:
        if value is None or _NO_HEAT.fullmatch(name):
            continue
        # millidegrees by the kernel's rule; some makers' zones give whole degrees
        degrees = value / 1e3 if abs(value) >= 1000 else float(value)
        if not _PLAUSIBLE[0] <= degrees <= _PLAUSIBLE[1]:
            continue
        unique, number = name, 2
        while unique in found:
            unique, number = f"{name} {number}", number + 1
        found[unique] = degrees
    return found


def _load(proc: Path, seconds: float, sleep: Callable[[float], None]) -> float | None:
    """Cores busy on average over a short time, from ticks of 10 ms."""
    if seconds <= 0:
        return None
    before, start = _busy_ticks(proc), time.monotonic()
    sleep(seconds)
    after, wall = _busy_ticks(proc), time.monotonic() - start
    if before is None or after is None or after < before:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return round((after - before) / ticks / max(wall, seconds), 2)


def _busy_ticks(proc: Path) -> int | None:
    """user, nice, system, irq, softirq and steal; time of guests is in user already."""
    lines = (text(proc / "stat") or "").splitlines()
    fields = lines[0].split() if lines else []
    if len(fields) < 9 or fields[0] != "cpu" or not all(f.isdigit() for f in fields[1:9]):
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return user + nice + system + irq + softirq + steal


def _memory(proc: Path) -> int | None:
    for line in (text(proc / "meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        value = rest.split()
        if name == "MemAvailable" and value and value[0].isdigit():
            return int(value[0]) * 1024
    return None


def _disk(folder: Path) -> int | None:
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def _battery(sys: Path) -> dict[str, Any] | None:
    """The battery that feeds the machine, not the one of a mouse."""
    root = sys / "class/power_supply"
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return None
    for supply in (root / name for name in names):
        if text(supply / "type") != "Battery" or text(supply / "scope") == "Device":
            continue
        tenths = integer(supply / "temp")
        return {
            "percent": integer(supply / "capacity"),
            "status": text(supply / "status"),
            "current_ua": integer(supply / "current_now"),
            "voltage_uv": integer(supply / "voltage_now"),
            "charge_uah": _first(supply, "charge_now", "charge_counter"),
            "energy_uwh": integer(supply / "energy_now"),
            "temperature_c": None if tenths is None else tenths / 10,
        }
    return None


def _first(folder: Path, *names: str) -> int | None:
    return next((v for name in names if (v := integer(folder / name)) is not None), None)


def _throttled(sys: Path) -> bool | None:
    """True if something holds the processors back now; None if nothing says so either way.

    That is a Raspberry's own word, a cooling device of the processors at work, or a clock capped below the highest.
    """
    raspberry = text(sys / _RASPBERRY)
    if raspberry is not None:
        try:
            return bool(int(raspberry, 16) & _RASPBERRY_NOW)
        except ValueError:
            return None
    steps = [
        integer(device / "cur_state")
        for device in _folders(sys / "class/thermal", "cooling_device")
        if (text(device / "type") or "").lower().startswith(_COOLING)
    ]
    told = [step > 0 for step in steps if step is not None]
    caps, tops = (_per_cpu(sys, f"cpufreq/{f}_max_freq") for f in ("scaling", "cpuinfo"))
    told += [caps[cpu] < tops[cpu] for cpu in caps.keys() & tops.keys()]
    return any(told) if told else None
