"""Processor cores of 64-bit ARM: their names in LLVM, and the numbers by which Linux tells them. Data.

Sources: LLVM 22, AArch64Processors.td (names); Linux, arch/arm64/include/asm/cputype.h, and util-linux,
sys-utils/lscpu-arm.c (numbers of MIDR_EL1); Arm's technical reference manuals (who shares a cache).
"""

from __future__ import annotations

_ARM = {
    0xD02: "cortex-a34", 0xD03: "cortex-a53", 0xD04: "cortex-a35", 0xD05: "cortex-a55",
    0xD06: "cortex-a65", 0xD07: "cortex-a57", 0xD08: "cortex-a72", 0xD09: "cortex-a73",
    0xD0A: "cortex-a75", 0xD0B: "cortex-a76", 0xD0C: "neoverse-n1", 0xD0D: "cortex-a77",
    0xD0E: "cortex-a76ae", 0xD40: "neoverse-v1", 0xD41: "cortex-a78", 0xD42: "cortex-a78ae",
    0xD43: "cortex-a65ae", 0xD44: "cortex-x1", 0xD46: "cortex-a510", 0xD47: "cortex-a710",
    0xD48: "cortex-x2", 0xD49: "neoverse-n2", 0xD4A: "neoverse-e1", 0xD4B: "cortex-a78c",
    0xD4C: "cortex-x1c", 0xD4D: "cortex-a715", 0xD4E: "cortex-x3", 0xD4F: "neoverse-v2",
    0xD80: "cortex-a520", 0xD81: "cortex-a720", 0xD82: "cortex-x4", 0xD84: "neoverse-v3",
    0xD85: "cortex-x925", 0xD87: "cortex-a725", 0xD8E: "neoverse-n3",
}  # fmt: skip

# Qualcomm's gold and silver cores are Arm's, built in; LLVM has no names of their own for them.
_QUALCOMM = {
    0x001: "oryon-1", 0x201: "kryo", 0x205: "kryo", 0x211: "kryo",
    0x800: "cortex-a73", 0x801: "cortex-a53", 0x802: "cortex-a75", 0x803: "cortex-a55",
    0x804: "cortex-a76", 0x805: "cortex-a55", 0xC00: "falkor", 0xC01: "saphira",
}  # fmt: skip

_M1, _M2 = "apple-m1", "apple-m2"
_APPLE = {
    0x022: _M1, 0x023: _M1, 0x024: _M1, 0x025: _M1, 0x028: _M1, 0x029: _M1,
    0x032: _M2, 0x033: _M2, 0x034: _M2, 0x035: _M2, 0x038: _M2, 0x039: _M2,
}  # fmt: skip

PARTS: dict[int, dict[int, str]] = {
    0x41: _ARM,
    0x42: {0x516: "thunderx2t99"},
    0x43: {
        0x0A1: "thunderxt88", 0x0A2: "thunderxt81", 0x0A3: "thunderxt83", 0x0AF: "thunderx2t99",
    },
    0x46: {0x001: "a64fx"},
    0x48: {0xD01: "tsv110", 0xD40: "cortex-a76"},
    0x4E: {0x004: "carmel"},
    0x51: _QUALCOMM,
    0x53: {0x002: "exynos-m3", 0x003: "exynos-m4", 0x004: "exynos-m5"},
    0x61: _APPLE,
    0x6D: {0xD49: "neoverse-n2"},
    0xC0: {0xAC3: "ampere1", 0xAC4: "ampere1a", 0xAC5: "ampere1b"},
}  # fmt: skip
"""LLVM's name by implementer and part number."""

LITTLE = frozenset(
    "cortex-a34 cortex-a35 cortex-a53 cortex-a55 cortex-a65 cortex-a65ae cortex-a510 cortex-a520".split()
)
"""Cores that are the small ones wherever they stand beside others."""

CLUSTER_L2 = frozenset(
    "cortex-a34 cortex-a35 cortex-a53 cortex-a57 cortex-a72 cortex-a73 kryo apple-m1 apple-m2".split()
)
"""Cores whose second-level cache belongs to the cluster, not to the core."""

WITH_SVE2 = frozenset(
    "cortex-a510 cortex-a520 cortex-a710 cortex-a715 cortex-a720 cortex-a725 cortex-x2 cortex-x3 cortex-x4 "
    "cortex-x925 neoverse-n2 neoverse-n3 neoverse-v2 neoverse-v3".split()
)
"""Cores that have SVE2 wherever they have SVE."""

GENERIC = "generic"
"""LLVM's name for a core that nobody knows."""

CORES = frozenset(name for parts in PARTS.values() for name in parts.values()) | {GENERIC}
"""Every core that a description may name."""


def core_of(implementer: int, part: int) -> str:
    """LLVM's name of the core with these numbers of MIDR_EL1; ``generic`` for one that is not known."""
    return PARTS.get(implementer, {}).get(part, GENERIC)
