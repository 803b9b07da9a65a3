"""Descriptions of what code is made for: instruction set, registers, threads. Data, and no TVM."""

from __future__ import annotations

import difflib
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.cpu import this_processor
from targets.errors import TargetError
from targets.features import AARCH64, check_known, closed
from targets.gpu import Gpu

if TYPE_CHECKING:
    import tvm

    from targets.description import DeviceDescription

# Only what code generation may use: one that it never does, and a hypervisor may hide (movdiri), must not
# rule a processor out.
_V2 = frozenset("sse3 ssse3 sse4.1 sse4.2 popcnt cx16".split())
_V3 = _V2 | frozenset("avx avx2 bmi bmi2 f16c fma lzcnt movbe".split())
_V4 = _V3 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split())
_ICELAKE = _V4 | frozenset(
    "avx512vnni avx512ifma avx512vbmi avx512vbmi2 avx512bitalg avx512vpopcntdq gfni vaes "
    "vpclmulqdq".split()
)
_ALDERLAKE = _V3 | frozenset("avxvnni gfni vaes vpclmulqdq".split())
_ZEN4 = _ICELAKE | {"avx512bf16"}
_ZEN5 = _ZEN4 | {"avxvnni", "avx512vp2intersect"}
_SAPPHIRE = _ZEN4 | frozenset("avxvnni avx512fp16 amx-tile amx-int8 amx-bf16".split())
_NEON = frozenset({"neon"})
_DOTPROD = _NEON | {"fullfp16", "dotprod"}
_I8MM = _DOTPROD | {"i8mm", "bf16"}

# LLVM schedules code for "generic" as for Cortex-A510.
_IN_ORDER = frozenset(
    "generic cortex-a34 cortex-a35 cortex-a53 cortex-a55 cortex-a320 cortex-a510 cortex-a520".split()
)


UNKNOWN_L2 = 512 * 1024
"""Second-level cache that a core is taken to have where nobody told."""


@dataclass(frozen=True)
class Target:
    """A compile target.

    Attributes:
        name: what a user calls it, and part of the key of its records.
        kind: code generator: ``llvm``, or ``opencl`` with ``gpu``.
        mcpu: processor name as LLVM spells it.
        features: instruction-set features, LLVM's spelling, that the code may use.
        threads: threads that the code is made for; 1 means no parallel loop at all.
        vector_bits: width of one vector register.
        registers: number of vector registers.
        description: for people.
        vendor: who makes it, as /proc/cpuinfo says it; "" for any.
        architecture: ``x86_64`` or ``aarch64``.
        triple: operating system of the code, as LLVM spells it; "" for Linux.
        l2_bytes: second-level cache of one core; what a kernel stages is made to fit it (`targets.kernels.cache`).
        gpu: what runs the kernels if ``kind`` is ``opencl``; the rest then describes its host.
    """

    name: str
    mcpu: str
    features: frozenset[str]
    vector_bits: int
    registers: int
    description: str = ""
    vendor: str = ""
    threads: int = 1
    kind: str = "llvm"
    architecture: str = "x86_64"
    triple: str = ""
    l2_bytes: int = UNKNOWN_L2
    gpu: Gpu | None = None

    @property
    def lanes(self) -> int:
        """float32 values in one vector register."""
        return self.vector_bits // 32

    @property
    def block(self) -> int:
        """Outputs in one packed block of weights: two vector registers."""
        return 2 * self.lanes

    @property
    def operands(self) -> int:
        """Vector registers that a product needs beside its sums and one row of weights.

        x86 reads an operand of a multiply-add from memory; AArch64 has to load it first, and with 2 registers
        for that compilers keep some sums on the stack. For cores that execute in order they load far ahead.
        """
        if self.architecture != "aarch64":
            return 2
        return 10 if self.in_order else 4

    @property
    def in_order(self) -> bool:
        """True if the processor, or one that the code has to suit, starts instructions in their order."""
        return self.mcpu in _IN_ORDER

    @property
    def instructions(self) -> frozenset[str]:
        """Instruction-set features that kernels may use: none of the host's where a GPU runs them."""
        return self.features if self.gpu is None else frozenset()

    @property
    def has_vnni(self) -> bool:
        """True if one instruction multiplies uint8 by int8 and adds four products to an int32."""
        return bool(self.instructions & {"avx512vnni", "avxvnni"})

    @property
    def dot(self) -> str:
        """The instruction that adds four products of uint8 and int8 to an int32: ``vnni``, ``usdot``, ``sdot``.

        ``sdot`` multiplies int8 by int8, and what it takes to make that exact; "" if there is none.
        """
        if self.has_vnni:
            return "vnni"
        if "i8mm" in self.instructions:
            return "usdot"
        return "sdot" if "dotprod" in self.instructions else ""

    @property
    def has_tiles(self) -> bool:
        """True if one instruction multiplies tiles of 16 rows of 64 bytes (AMX, int8 and bf16)."""
        return {"amx-tile", "amx-int8", "amx-bf16"} <= self.instructions

    @property
    def has_bf16(self) -> bool:
        """True if one instruction multiplies bfloat16 pairs and adds two products to a float32."""
        return bool(self.instructions & {"avx512bf16", "bf16"})

    @property
    def has_fp16(self) -> bool:
        """True if it multiplies and adds float16, twice as many at once as float32."""
        if self.gpu is not None:
            return self.gpu.fp16
        return bool(self.features & {"avx512fp16", "fullfp16"})

    @property
    def has_sparse_products(self) -> bool:
        """True if one instruction multiplies operands of which 2 of 4 are kept (SME, FEAT_SME_TMOP)."""
        return "sme-tmop" in self.instructions

    def with_threads(self, threads: int) -> Target:
        """The same target for another number of threads (at least 1)."""
        if threads < 1:
            raise TargetError("a target needs a thread", got=str(threads), allowed="1 or more")
        return replace(self, threads=threads)

    def with_features(self, names: tuple[str, ...]) -> Target:
        """The same target where the code may use more features; its name says which.

        Raises:
            TargetError: a feature that the architecture does not have.
        """
        known = AARCH64 if self.architecture == "aarch64" else X86_FEATURES
        check_known(names, known, f"target {self.name}")
        more = closed(names) if self.architecture == "aarch64" else frozenset(names)
        name = "+".join([self.name, *sorted(set(names))])
        return replace(self, name=name, features=self.features | more)

    def tvm(self) -> tvm.target.Target:
        """This target as TVM knows it; for a GPU, with its host.

        OpenCL promises no work item that it runs in step with another, so TVM is not told the width of a
        subgroup: where it knows one it leaves out barriers. All GPUs have the same keys: with ``adreno`` among
        them TVM takes a pipeline made for textures.
        """
        import tvm

        host = self._processor()
        if self.gpu is None:
            return tvm.target.Target(host)
        made: dict[str, Any] = {
            "kind": self.kind,
            "keys": ["opencl", "gpu"],
            "max_threads_per_block": self.gpu.max_threads,
            "max_num_threads": self.gpu.max_threads,
            "max_shared_memory_per_block": self.gpu.local_bytes,
            "thread_warp_size": 1,
            "host": host,
        }
        return tvm.target.Target(made)

    def _processor(self) -> dict[str, Any]:
        """What runs the host code, as TVM's description of it for LLVM."""
        made: dict[str, Any] = {"kind": "llvm", "mcpu": self.mcpu, "num-cores": self.threads}
        if self.architecture == "aarch64":
            made["mtriple"] = self.triple or "aarch64-linux-gnu"
        if switches := self._switches():
            made["mattr"] = switches
        return made

    def _switches(self) -> list[str]:
        """LLVM's switches that give the code just the features of this target.

        A name such as ``cortex-x3`` turns on all that the core can do. Android lets programs use less than
        that (no SVE2 on a Snapdragon 8 Gen 2), and an instruction it forbids ends them.
        """
        if self.architecture == "aarch64":
            excess = AARCH64 - self.features if self.mcpu != "generic" else frozenset()
            without = [f"-{name}" for name in sorted(excess)]
            return [*without, *(f"+{name}" for name in sorted(self.features))]
        known = KNOWN.get(self.mcpu)  # x86 processors are told apart by names
        return [f"+{name}" for name in sorted(self.features - known.features)] if known else []

    def missing(self) -> frozenset[str]:
        """Features that code for this target may use and that this machine lacks."""
        return self.features - this_processor().features

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run code for this target."""
        same = self.kind == "llvm" and self.architecture == platform.machine()
        return same and not self.missing()

    def __str__(self) -> str:
        return f"{self.name} ({self.threads} thread{'s' if self.threads > 1 else ''})"


# The best first: `host` takes the first that this machine can run. Caches of named processors are those of the
# generation (AMD, Software Optimization Guides; Intel, Optimization Reference Manual), of Alder Lake its big cores'.
_TABLE = (
    Target(
        "znver5", "znver5", _ZEN5, 512, 32, "AMD Zen 5, AVX-512 VNNI", "AuthenticAMD",
        l2_bytes=1 << 20,
    ),
    Target(
        "znver4", "znver4", _ZEN4, 512, 32, "AMD Zen 4, AVX-512 VNNI", "AuthenticAMD",
        l2_bytes=1 << 20,
    ),
    Target(
        "sapphirerapids", "sapphirerapids", _SAPPHIRE, 512, 32, "Intel Xeon 4th generation",
        "GenuineIntel", l2_bytes=2 << 20,
    ),
    Target(
        "icelake-server", "icelake-server", _ICELAKE, 512, 32, "Intel Xeon 3rd generation, VNNI",
        "GenuineIntel", l2_bytes=5 << 18,
    ),
    Target(
        "cascadelake", "cascadelake", _V4 | {"avx512vnni"}, 512, 32,
        "Intel Xeon 2nd generation, VNNI", "GenuineIntel", l2_bytes=1 << 20,
    ),
    Target(
        "skylake-avx512", "skylake-avx512", _V4, 512, 32, "Intel Xeon, AVX-512 without VNNI",
        l2_bytes=1 << 20,
    ),
    Target("x86-64-v4", "x86-64-v4", _V4, 512, 32, "any x86-64 with AVX-512"),
    Target(
        "alderlake", "alderlake", _ALDERLAKE, 256, 16, "Intel Core 12th generation, AVX-VNNI",
        l2_bytes=5 << 18,
    ),
    Target("x86-64-v3", "x86-64-v3", _V3, 256, 16, "any x86-64 with AVX2"),
    Target("x86-64-v2", "x86-64-v2", _V2, 128, 16, "any x86-64 with SSE 4.2"),
    Target(
        "aarch64-i8mm", "generic", _I8MM, 128, 32, "64-bit ARM (8.6) with i8mm and bf16",
        architecture="aarch64",
    ),
    Target(
        "aarch64-dotprod", "generic", _DOTPROD, 128, 32, "64-bit ARM (8.2) with dot products, fp16",
        architecture="aarch64",
    ),
    Target("aarch64", "generic", _NEON, 128, 32, "any 64-bit ARM", architecture="aarch64"),
)  # fmt: skip

KNOWN: dict[str, Target] = {t.name: t for t in _TABLE}
"""Every target that this machine may be, by its name; ``host`` and ``this-machine`` stand for the machine itself."""

X86_FEATURES = frozenset().union(*(t.features for t in _TABLE if t.architecture == "x86_64"))
"""Features of x86 that a target may name."""

PLATFORMS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            "android-arm64", "generic", _NEON, 128, 32, "any 64-bit ARM phone with Android",
            architecture="aarch64", triple="aarch64-linux-android",
        ),
        Target(
            "linux-arm64", "generic", _NEON, 128, 32, "any 64-bit ARM with Linux",
            architecture="aarch64", triple="aarch64-linux-gnu",
        ),
    )
}  # fmt: skip
"""Operating systems on any processor: the base of names such as ``android-arm64+dotprod+fullfp16``."""

HOST_NAMES = ("host", "this-machine")


def best_for(vendor: str, features: frozenset[str]) -> Target | None:
    """The best known target that a processor can run, by its maker and the features it really has."""
    fits = (t for t in KNOWN.values() if t.vendor in ("", vendor) and t.features <= features)
    return next(fits, None)


def host(threads: int = 1) -> Target:
    """The best known target that this machine can run."""
    cpu = this_processor()
    found = best_for(cpu.vendor, cpu.features)
    if found is not None:
        l2_bytes = cpu.l2_bytes or found.l2_bytes
        return replace(found, description=cpu.model, l2_bytes=l2_bytes).with_threads(threads)
    raise TargetError(
        "no target fits this machine",
        got=f"{cpu.model}: {' '.join(sorted(cpu.features)) or 'no features told'}",
        allowed=", ".join(KNOWN),
        next="name one of the known targets with --target and run the code elsewhere",
    )


def find(name: str, threads: int = 1) -> Target:
    """The target called ``name``.

    Args:
        name: ``host``, a name of `KNOWN`, of `PLATFORMS`, of `gpus.GENERIC` or of the catalog, or a TOML file
            that describes a device, either with ``/little`` or ``/gpu`` behind it for another of its targets
            (``/big`` is the device itself); then, if wanted, ``+feature`` for each feature that the code may
            use beyond that.
        threads: that the code is made for.

    Raises:
        TargetError: nothing is called so; or the file or a feature is wrong.
    """
    base, part, added = _split(name)
    device = device_of(name)
    found = _named(base + part) if device is None else _part_of(device, base, part)
    if added:
        found = found.with_features(added)
    return found.with_threads(threads)


def device_of(name: str) -> DeviceDescription | None:
    """The device to which the target called ``name`` belongs; None for one that belongs to none.

    Raises:
        TargetError: a file that is wrong.
    """
    from targets.catalog import library

    base, _, _ = _split(name)
    return _read(base) if base.endswith(_SUFFIX) else library().devices.get(base)


def anchored(name: str, folder: Path) -> str:
    """The same target where a file in its name is relative to ``folder``; any other name as it is."""
    base, part, added = _split(name)
    if not base.endswith(_SUFFIX):
        return name
    return "+".join([f"{folder / base}{part}", *added])


_SUFFIX = ".toml"
_NAME = re.compile(r"(?P<base>.+\.toml|[^/+]*)(?P<part>(/[^/+]*)*)(?P<added>(\+[^/]*)?)", re.DOTALL)


def _split(name: str) -> tuple[str, str, tuple[str, ...]]:
    """What a name says: a base or a file, ``/part`` of a device or "", and features."""
    found = _NAME.fullmatch(name)
    if found is None:
        return name, "", ()
    return found["base"], found["part"], tuple(found["added"].split("+")[1:])


def _named(name: str) -> Target:
    if name in HOST_NAMES:
        return host()
    # a description of a device becomes targets, so the catalog is built on this module, as are the GPUs
    from targets import gpus
    from targets.catalog import catalog_targets

    if name.startswith("vulkan"):
        gpus.refuse_vulkan(name)
    generic = [*HOST_NAMES, *KNOWN, *PLATFORMS, *gpus.GENERIC]
    known = {**KNOWN, **PLATFORMS, **gpus.GENERIC, **catalog_targets()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, [*HOST_NAMES, *known], n=3)
    raise TargetError(
        "unknown target",
        got=name,
        allowed=", ".join(generic)
        + ", a device of the catalog, or a TOML file (its name ends in .toml) that describes one",
        next=f"try --target {' or '.join(near)}" if near else "codesign targets lists them",
    )


def _read(path: str) -> DeviceDescription:
    from targets.catalog import library
    from targets.device_file import read_device

    return read_device(Path(path), library())


def _part_of(device: DeviceDescription, base: str, part: str) -> Target:
    """The device's target behind ``/part``; the first cluster's name is another one for the device's own."""
    from targets.device_targets import device_targets

    first = device.chip.clusters[0].name
    made = {n.removeprefix(device.name): target for n, target in device_targets(device).items()}
    if part == f"/{first}":
        return made[""]
    if part not in made:
        no_gpu = part == "/gpu"
        raise TargetError(
            "no GPU of this device is described" if no_gpu else "the device has no such part",
            got=f"{base}{part}",
            allowed=", ".join([f"{base} (its {first} cores)", *(base + p for p in made if p)]),
            next="what it has for OpenCL stands in a TOML file of your own" if no_gpu
            else f"codesign targets {base}",
        )  # fmt: skip
    return made[part]
