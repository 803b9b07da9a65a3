"""Instruction-set features of 64-bit ARM that code generation here may use, in LLVM's spelling. Data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from targets.errors import TargetError

# What LLVM turns on with each (AArch64Features.td); reading a file or a name makes a set closed by it.
_IMPLIES: dict[str, tuple[str, ...]] = {
    "neon": (),
    "fullfp16": ("neon",),
    "fp16fml": ("fullfp16",),
    "dotprod": ("neon",),
    "i8mm": ("neon",),
    "bf16": ("neon",),
    "sve": ("fullfp16",),
    "sve2": ("sve",),
    "sme": ("bf16", "fullfp16"),
    "sme2": ("sme",),
    "sme-tmop": ("sme2",),
}

AARCH64 = frozenset(_IMPLIES)
"""Those that a target may name; what else a processor has is LLVM's matter alone."""

# What people copy from /proc/cpuinfo (Linux, Documentation/arch/arm64/elf_hwcaps.rst) or say.
_SAID = {
    "asimd": "neon", "asimddp": "dotprod", "asimdhp": "fullfp16", "fphp": "fullfp16",
    "fp16": "fullfp16", "asimdfhm": "fp16fml",
}  # fmt: skip


def closed(features: Iterable[str]) -> frozenset[str]:
    """The features with all that they imply; NEON always, every 64-bit ARM with an operating system has it."""
    found = {"neon"}
    waiting = list(features)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += [implied for implied in _IMPLIES[name] if implied not in found]
    return frozenset(found)


def check_known(
    names: Iterable[str], known: frozenset[str], where: str, what: str = "feature"
) -> None:
    """Raise TargetError for the first name that is not among the known ones; ``what`` they are called."""
    for name in names:
        if name not in known:
            near = [_SAID[name]] if _SAID.get(name) in known else []
            near = near or difflib.get_close_matches(name, sorted(known), n=1)
            raise TargetError(
                f"{where}: unknown {what}",
                got=name or "an empty name",
                allowed=", ".join(sorted(known)),
                next=f"did you mean '{near[0]}'?" if near else f"remove '{name}'",
            )
