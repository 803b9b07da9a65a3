"""What the processor of this machine is and can do, read from the operating system."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from targets.sysfs import l2_of_core

_CPUINFO = Path("/proc/cpuinfo")
_CPUS = Path("/sys/devices/system/cpu")

# Where Linux's name of a feature is not LLVM's name without the underscores.
_LLVM_NAMES = {
    "pni": "sse3", "abm": "lzcnt", "bmi1": "bmi", "sse4_1": "sse4.1", "sse4_2": "sse4.2",
    "amx_tile": "amx-tile", "amx_int8": "amx-int8", "amx_bf16": "amx-bf16",
    "asimd": "neon", "asimdhp": "fullfp16", "asimddp": "dotprod",
}  # fmt: skip

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@dataclass(frozen=True)
class Processor:
    """One processor as the operating system describes it.

    Attributes:
        vendor: ``AuthenticAMD``, ``GenuineIntel``, or "" where the system does not say.
        model: the name a person knows it by.
        features: instruction-set features that this process may use, in LLVM's spelling, for example
            ``avx512vnni``.
        cores: processors that this process may run on.
        l2_bytes: one core's share of the second-level cache; None where the system does not say.
    """

    vendor: str
    model: str
    features: frozenset[str]
    cores: int
    l2_bytes: int | None = None


def parse_cpuinfo(text: str) -> tuple[str, str, frozenset[str]]:
    """(vendor, model, features) of the first processor in the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    features = frozenset(_LLVM_NAMES.get(f, f.replace("_", "")) for f in flags)
    return fields.get("vendor_id", ""), fields.get("model name", ""), features


def tiles_granted() -> bool:
    """Ask Linux for the tile registers of AMX; False if it refuses them.

    A process must ask once before its first tile instruction, for all its threads and for processes that
    it forks (Linux, Documentation/arch/x86/xstate.rst); without permission that instruction kills it.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):
        return False
    arguments = (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return call(*(ctypes.c_long(a) for a in arguments)) == 0


@cache
def this_processor() -> Processor:
    """The processor this process runs on; without features where the system tells none.

    Whatever loads code made for this machine calls this first: it asks for the tile registers of AMX
    where there are any, and counts those features only if they were granted.
    """
    text = _CPUINFO.read_text(errors="replace") if _CPUINFO.exists() else ""
    vendor, model, features = parse_cpuinfo(text)
    if "amx-tile" in features and not tiles_granted():
        features = frozenset(f for f in features if not f.startswith("amx-"))
    if hasattr(os, "sched_getaffinity"):
        numbers = sorted(os.sched_getaffinity(0))
    else:
        numbers = list(range(os.cpu_count() or 1))
    model = model or platform.processor() or platform.machine()
    return Processor(vendor, model, features, len(numbers), l2_of_core(_CPUS / f"cpu{numbers[0]}"))
