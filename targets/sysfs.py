"""Caches of a processor, and sizes and lists of processors, as Linux writes them in sysfs."""

from __future__ import annotations

import re
from pathlib import Path

_SIZE = re.compile(r"(\d{1,9})\s*([KMG]?)i?B?", re.IGNORECASE)
_SCALE = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_in_bytes(size: str) -> int | None:
    """Bytes of a size such as ``512K``; None for other text."""
    found = _SIZE.fullmatch(size.strip())
    return int(found[1]) * _SCALE[found[2].upper()] if found else None


def processors_in(listed: str | None) -> int | None:
    """How many processors a list such as ``0-3,6`` has; None for other text."""
    count = 0
    for part in (listed or "").split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()) or len(part) > 12:
            return None
        count += max(1, int(last or first) - int(first) + 1)
    return count or None


def l2_of_core(cpu: Path) -> int | None:
    """Bytes of a core's share of its second-level cache; None where the system does not say.

    Processors that are threads of one core share it as that core.

    Args:
        cpu: the processor's folder, such as ``/sys/devices/system/cpu/cpu0``.
    """
    threads = processors_in(_text(cpu / "topology" / "thread_siblings_list")) or 1
    for cache in sorted(cpu.glob("cache/index*")):
        if _text(cache / "level") == "2" and _text(cache / "type") != "Instruction":
            size = size_in_bytes(_text(cache / "size"))
            shared = processors_in(_text(cache / "shared_cpu_list")) or 1
            return size // max(1, shared // threads) if size else None
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
