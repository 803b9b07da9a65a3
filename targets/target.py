"""Descriptions of what code is made for: instruction set, registers, threads. Data, and no TVM."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from targets.cpu import this_processor
from targets.errors import TargetError
from targets.gpu import Gpu

if TYPE_CHECKING:
    import tvm

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
        l2_bytes: second-level cache of one core; what a kernel stages is made to fit it.
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
    l2_bytes: int = 512 * 1024
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
        for that compilers keep some sums on the stack.
        """
        return 4 if self.architecture == "aarch64" else 2

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

    def tvm(self) -> tvm.target.Target:
        """This target as TVM knows it."""
        if self.kind == "opencl":
            from targets.opencl import opencl_target

            return opencl_target(self)
        import tvm

        made = {"kind": self.kind, "mcpu": self.mcpu, "num-cores": self.threads}
        if (
            self.architecture == "aarch64"
        ):  # its processors are told apart by features, not by names
            features = [f"+{name}" for name in sorted(self.features)]
            made |= {"mtriple": self.triple or "aarch64-linux-gnu", "mattr": features}
        return tvm.target.Target(made)

    def missing(self) -> frozenset[str]:
        """Features that code for this target may use and that this machine lacks."""
        return self.features - this_processor().features

    def __str__(self) -> str:
        return f"{self.name} ({self.threads} thread{'s' if self.threads > 1 else ''})"


# The best first: `host` takes the first that this machine can run.
_TABLE = (
    Target("znver5", "znver5", _ZEN5, 512, 32, "AMD Zen 5, AVX-512 VNNI", "AuthenticAMD"),
    Target("znver4", "znver4", _ZEN4, 512, 32, "AMD Zen 4, AVX-512 VNNI", "AuthenticAMD"),
    Target(
        "sapphirerapids", "sapphirerapids", _SAPPHIRE, 512, 32, "Intel Xeon 4th generation",
        "GenuineIntel",
    ),
    Target(
        "icelake-server", "icelake-server", _ICELAKE, 512, 32, "Intel Xeon 3rd generation, VNNI",
        "GenuineIntel",
    ),
    Target(
        "cascadelake", "cascadelake", _V4 | {"avx512vnni"}, 512, 32,
        "Intel Xeon 2nd generation, VNNI", "GenuineIntel",
    ),
    Target("skylake-avx512", "skylake-avx512", _V4, 512, 32, "Intel Xeon, AVX-512 without VNNI"),
    Target("x86-64-v4", "x86-64-v4", _V4, 512, 32, "any x86-64 with AVX-512"),
    Target("alderlake", "alderlake", _ALDERLAKE, 256, 16, "Intel Core 12th generation, AVX-VNNI"),
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
"""Every target by its name; ``host`` and ``this-machine`` stand for the machine itself."""

HOST_NAMES = ("host", "this-machine")


def host(threads: int = 1) -> Target:
    """The best known target that this machine can run, by the features it really has."""
    cpu = this_processor()
    for target in KNOWN.values():
        if target.vendor in ("", cpu.vendor) and target.features <= cpu.features:
            return replace(target, description=cpu.model).with_threads(threads)
    raise TargetError(
        "no target fits this machine",
        got=f"{cpu.model}: {' '.join(sorted(cpu.features)) or 'no features told'}",
        allowed=", ".join(KNOWN),
        next="name one of the known targets with --target and run the code elsewhere",
    )


def find(name: str, threads: int = 1) -> Target:
    """The target called ``name``; raises TargetError listing the known ones."""
    if name in HOST_NAMES:
        return host(threads)
    if name in KNOWN:
        return KNOWN[name].with_threads(threads)
    from targets import gpus  # it describes its GPUs with `Target`

    if name in gpus.GENERIC:
        return gpus.GENERIC[name]
    if name.startswith("vulkan"):
        gpus.refuse_vulkan(name)
    names = [*HOST_NAMES, *KNOWN, *gpus.GENERIC]
    close = difflib.get_close_matches(name, names, n=1)
    raise TargetError(
        "unknown target",
        got=name,
        allowed=", ".join(names),
        next=f"try --target {close[0]}" if close else "codesign targets lists them",
    )
