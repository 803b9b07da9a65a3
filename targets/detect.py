"""A description of a device from what the device tells about itself. Pure functions, no TVM.

A program on the device reads /proc/cpuinfo, AT_HWCAP and AT_HWCAP2, sysfs and OpenCL and sends them as they
are; what they mean is decided here. What a program may use are the hwcaps: they hold for every core, whatever
the cores are, and an emulator shows there what it emulates while its /proc/cpuinfo is the host's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from targets.catalog import library
from targets.cores import CLUSTER_L2, GENERIC, LITTLE, WITH_SVE2, core_of
from targets.cpu import parse_cpuinfo
from targets.description import Chip, Cluster, DeviceDescription, GpuDescription, check, slug
from targets.device_file import to_toml
from targets.errors import TargetError
from targets.features import AARCH64, closed
from targets.schema import load
from targets.sysfs import processors_in, size_in_bytes

__all__ = ["CacheFacts", "CpuFacts", "DeviceFacts", "OpenClFacts", "describe", "to_toml"]

# Linux, arch/arm64/include/uapi/asm/hwcap.h
_HWCAP = {1: "neon", 10: "fullfp16", 20: "dotprod", 22: "sve", 23: "fp16fml"}
_HWCAP2 = {1: "sve2", 13: "i8mm", 14: "bf16", 23: "sme", 37: "sme2"}

_SAID = "told by the device itself: /proc/cpuinfo, hwcaps, sysfs, OpenCL"


@dataclass(frozen=True)
class CacheFacts:
    """One cache of a processor, as sysfs has it; ``shared_cpu_list`` such as ``0-3`` if it was read."""

    level: int
    type: str
    size: str
    shared_cpu_list: str | None = None


@dataclass(frozen=True)
class CpuFacts:
    """One processor of sysfs: its number, its highest clock if told, and its caches."""

    cpu: int
    max_khz: int | None = None
    caches: tuple[CacheFacts, ...] = ()


@dataclass(frozen=True)
class OpenClFacts:
    """What OpenCL says of its first GPU; ``extensions`` are separated by spaces."""

    name: str
    max_work_group_size: int | None = None
    local_mem_bytes: int | None = None
    compute_units: int | None = None
    extensions: str | None = None


@dataclass(frozen=True)
class DeviceFacts:
    """What a device tells.

    Attributes:
        cpuinfo: the whole text of /proc/cpuinfo.
        machine: of uname, such as ``aarch64``.
        hwcap: AT_HWCAP; 0 with ``hwcap2`` if they could not be read.
        cpus: processors of sysfs.
        system: ``linux`` or ``android``.
        libc: that of the server's Python; code for ``glibc`` is Linux's, on Android too. "" if not told.
        model: the name a person knows it by, "" if it has none.
        opencl: None without a driver.
    """

    cpuinfo: str
    machine: str
    hwcap: int = 0
    hwcap2: int = 0
    cpus: tuple[CpuFacts, ...] = ()
    system: str = "linux"
    model: str = ""
    opencl: OpenClFacts | None = None
    libc: str = ""

    @classmethod
    def from_json(cls, data: Any) -> DeviceFacts:
        """The facts of a JSON object with these keys; others are ignored, as a newer device may send more.

        Raises:
            TargetError: a key lacks or has a value of another type.
        """
        if isinstance(data, Mapping) and isinstance(data.get("opencl"), Mapping):
            opencl = dict(data["opencl"])
            if isinstance(opencl.get("extensions"), list):
                opencl["extensions"] = " ".join(map(str, opencl["extensions"]))
            data = {**data, "opencl": opencl}
        return load(cls, data, "the facts of the device", extra=True)


def describe(facts: DeviceFacts) -> DeviceDescription:
    """The device that tells these facts; what it does not tell stays unknown.

    Raises:
        TargetError: it is not a 64-bit ARM, or it tells what cannot be.
    """
    if facts.machine not in ("aarch64", "arm64"):
        raise TargetError(
            "only 64-bit ARM devices are described",
            got=f"{facts.model or 'a device'}: {facts.machine or 'no machine told'}",
            allowed="aarch64",
            next="a machine with another processor is a target by its name: codesign targets"
            if facts.machine in ("x86_64", "amd64")
            else "for a phone with a 32-bit system nothing can be compiled",
        )
    if facts.hwcap < 0 or facts.hwcap2 < 0:
        raise TargetError("hwcaps are bits", got=f"{facts.hwcap}, {facts.hwcap2}"[:80])
    model = _clean(facts.model) or "unknown device"
    name = slug(model)
    hardware = _clean(_field(facts.cpuinfo, "Hardware"))
    cpus = list(_processors(facts))
    chip = Chip(
        name=f"{name}-chip",
        maker=hardware or "unknown",
        features=tuple(sorted(_features(facts, {c.core for c in cpus}))),
        clusters=tuple(_clusters(cpus)),
        l3_bytes=next((c.l3 for c in cpus if c.l3), None),
        gpu=_gpu(facts.opencl) if facts.opencl else None,
        sources=(_SAID,),
    )
    system = "linux" if facts.libc == "glibc" else facts.system
    made = DeviceDescription(name, model.split()[0], model, system, chip, (_SAID,))
    return check(made, f"what {model} tells")


@dataclass(frozen=True)
class _Cpu:
    """One processor, as far as it matters which others are equal to it."""

    number: int
    core: str
    max_khz: int | None = None
    l1d: int | None = None
    l2: int | None = None
    l2_shared_by: int | None = None
    l3: int | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        return self.core, self.max_khz, self.l1d, self.l2

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """Bigger cores first: by kind, clock, cache, and then the number, which rises with the size."""
        return self.core in LITTLE, -(self.max_khz or 0), -(self.l2 or 0), -self.number


def _features(facts: DeviceFacts, cores: set[str]) -> frozenset[str]:
    if facts.hwcap or facts.hwcap2:
        told = {name for bit, name in _HWCAP.items() if facts.hwcap >> bit & 1}
        told |= {name for bit, name in _HWCAP2.items() if facts.hwcap2 >> bit & 1}
    else:
        told = set(parse_cpuinfo(facts.cpuinfo)[2] & AARCH64)
    # Of both versions of SVE, one alone is a mistake of the kernel: some Snapdragon 8 Gen 1 tell of the first
    # and end a program that uses it (github.com/ggml-org/llama.cpp issue 402).
    if "sve" not in told or (cores & WITH_SVE2 and "sve2" not in told):
        told -= {"sve", "sve2"}
    return closed(told)


def _processors(facts: DeviceFacts) -> Iterator[_Cpu]:
    """All processors, those that are switched off as well: /proc/cpuinfo has only those that are on."""
    cores = _cores(facts.cpuinfo)
    known = {c.cpu: c for c in facts.cpus}
    by_clock = {known[n].max_khz: core for n, core in cores.items() if n in known}
    for number in sorted(known or cores) or [0]:
        cpu = known.get(number, CpuFacts(number))
        core = cores.get(number) or by_clock.get(cpu.max_khz, GENERIC)
        yield _with_caches(_Cpu(number, core, cpu.max_khz or None), cpu.caches)


def _with_caches(made: _Cpu, caches: tuple[CacheFacts, ...]) -> _Cpu:
    for cache in caches:
        size = size_in_bytes(cache.size)
        if not size or cache.type == "Instruction":
            continue
        if cache.level == 1:
            made = replace(made, l1d=size)
        elif cache.level == 2:
            made = replace(made, l2=size, l2_shared_by=processors_in(cache.shared_cpu_list))
        elif cache.level == 3:
            made = replace(made, l3=size)
    return made


def _clusters(cpus: list[_Cpu]) -> Iterator[Cluster]:
    kinds: dict[tuple[object, ...], list[_Cpu]] = {}
    for cpu in sorted(cpus, key=lambda c: c.rank):
        kinds.setdefault(cpu.kind, []).append(cpu)
    for name, equal in zip(_names(len(kinds)), kinds.values(), strict=True):
        cpu, count = equal[0], len(equal)
        # without a list of who shares it, the core's own design tells
        shared = cpu.l2_shared_by or (min(count, 4) if cpu.core in CLUSTER_L2 else 1)
        yield Cluster(
            name=name,
            core=cpu.core,
            count=count,
            max_ghz=cpu.max_khz / 1e6 if cpu.max_khz else None,
            l1d_bytes=cpu.l1d,
            l2_bytes=cpu.l2,
            l2_shared_by=shared if cpu.l2 else 1,
        )


def _names(count: int) -> list[str]:
    if count < 2:
        return ["big"]
    middle = ["middle", *(f"middle-{i}" for i in range(2, count - 1))][: count - 2]
    return ["big", *middle, "little"]


def _cores(cpuinfo: str) -> dict[int, str]:
    """The core of each processor in /proc/cpuinfo; none where its text is not that of an ARM kernel.

    Old kernels tell of one core below a list of all processors.
    """
    cores: dict[int, str] = {}
    waiting: list[int] = []
    implementer = 0
    for line in cpuinfo.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key.lower() == "processor" and value.isdecimal() and len(value) < 6:
            waiting.append(int(value))
        elif key == "CPU implementer":
            implementer = _number(value)
        elif key == "CPU part":
            told = waiting or [len(cores)]
            cores |= dict.fromkeys(told, core_of(implementer, _number(value)))
            waiting = []
    return cores


def _gpu(told: OpenClFacts) -> GpuDescription:
    """The GPU, with what the catalog knows beyond what its driver tells."""
    name, family = _gpu_name(_clean(told.name) or "unknown GPU")
    known = library().gpus.get(name, GpuDescription(name, family))
    extensions = None if told.extensions is None else set(told.extensions.split())
    dots = {"cl_khr_integer_dot_product", "cl_arm_integer_dot_product_int8"}
    return replace(
        known,
        max_threads=told.max_work_group_size or known.max_threads,
        local_bytes=told.local_mem_bytes or known.local_bytes,
        units=told.compute_units or known.units,
        fp16=known.fp16 if extensions is None else "cl_khr_fp16" in extensions,
        int8_dot=known.int8_dot if extensions is None else bool(extensions & dots),
        sources=(_SAID, *known.sources),
    )


def _gpu_name(told: str) -> tuple[str, str]:
    """The name as the catalog spells it, without revision and marks, and its family."""
    if found := re.search(r"adreno\D*(\d{3})", told, re.IGNORECASE):
        return f"Adreno {found[1]}", "adreno"
    if found := re.search(r"(mali|immortalis)-?([tg]\d+)", told, re.IGNORECASE):
        return f"{found[1].capitalize()}-{found[2].upper()}", "mali"
    return told, "opencl"


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0


def _field(cpuinfo: str, key: str) -> str:
    found = re.search(rf"^{key}\s*:(.*)$", cpuinfo, re.MULTILINE)
    return found[1] if found else ""


def _clean(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:100]
