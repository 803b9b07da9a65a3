"""What the processor of this machine is and can do, read from the operating system."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

# Where Linux's name of a feature is not LLVM's name without the underscores.
_LLVM_NAMES = {"pni": "sse3", "abm": "lzcnt", "bmi1": "bmi", "sse4_1": "sse4.1", "sse4_2": "sse4.2"}


@dataclass(frozen=True)
class Processor:
    """One processor as the operating system describes it.

    Attributes:
        vendor: ``AuthenticAMD``, ``GenuineIntel``, or "" where the system does not say.
        model: the name a person knows it by.
        features: instruction-set features in LLVM's spelling, for example ``avx512vnni``.
        cores: processors that this process may run on.
    """

    vendor: str
    model: str
    features: frozenset[str]
    cores: int


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


@cache
def this_processor() -> Processor:
    """The processor this process runs on; without features where the system tells none."""
    text = _CPUINFO.read_text(errors="replace") if _CPUINFO.exists() else ""
    vendor, model, features = parse_cpuinfo(text)
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return Processor(vendor, model or platform.processor() or platform.machine(), features, cores)
