"""What ``benchmarks.arm_code`` compiles: kernel families on one shape each, and what they multiply with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx

from targets.kernels.attention import attention
from targets.kernels.attention_int8 import attention_int8
from targets.kernels.cache import strip_bytes
from targets.kernels.conv import conv
from targets.kernels.conv_fp16 import conv_fp16
from targets.kernels.conv_int8 import conv_int8
from targets.kernels.conv_pattern import conv_pattern
from targets.kernels.conv_sparse import conv_sparse
from targets.kernels.linear import dense
from targets.kernels.linear_fp16 import dense_fp16
from targets.kernels.linear_int8 import GROUP, dense_int8
from targets.kernels.linear_sparse import sparse
from targets.kernels.linear_sparse_int8 import sparse_int8
from targets.kernels.window import Window
from targets.target import Target, find

ROWS, INPUTS, OUTPUTS = (1, 128), 384, 1536
WINDOW = Window(28, 28, 128, (3, 3), padding=(1, 1, 1, 1))
DENSITY = 0.25
PATTERN_TAPS, PATTERN_KERNELS, PATTERNS = 4, 32, 8


@dataclass(frozen=True)
class Instruction:
    """One that multiplies and adds.

    Attributes:
        pattern: a regular expression for it in assembly.
        example: it on an accumulator ``{}``, for `mca.Analyser.peak`.
        products: multiplications that it does.
        shares: in a loop there are others of its kind that only sum what all rows share.
    """

    pattern: str
    example: str
    products: int
    shares: bool = False


FMLA = Instruction(r"fmla\s+v\d+\.4s", "fmla v{}.4s, v30.4s, v31.4s", 4)
FMLA_HALF = Instruction(r"fmla\s+v\d+\.8h", "fmla v{}.8h, v30.8h, v31.8h", 8)
SDOT = Instruction(r"sdot\s", "sdot v{}.4s, v30.16b, v31.16b", 16, shares=True)
USDOT = Instruction(r"(usdot|sudot)\s", "usdot v{}.4s, v30.16b, v31.16b", 16)
USMMLA = Instruction(r"usmmla\s", "usmmla v{}.4s, v30.16b, v31.16b", 32)


@dataclass(frozen=True)
class Core:
    """A processor whose code is judged.

    Attributes:
        name: for people.
        mcpu: as LLVM spells it.
        target: the known target whose features it has.
    """

    name: str
    mcpu: str
    target: str

    def made(self) -> Target:
        return replace(find(self.target), name=self.mcpu, mcpu=self.mcpu)

    @property
    def i8mm(self) -> bool:
        return "i8mm" in find(self.target).features


CORES = (
    Core("Cortex-A55", "cortex-a55", "aarch64-dotprod"),
    Core("Cortex-A76", "cortex-a76", "aarch64-dotprod"),
    Core("Cortex-X1", "cortex-x1", "aarch64-dotprod"),
    Core("Neoverse N1", "neoverse-n1", "aarch64-dotprod"),
    Core("Cortex-A710", "cortex-a710", "aarch64-i8mm"),
    Core("Neoverse V1", "neoverse-v1", "aarch64-i8mm"),
    Core("Neoverse N2", "neoverse-n2", "aarch64-i8mm"),
)


@dataclass(frozen=True)
class Family:
    """A kernel family.

    Attributes:
        name: for people.
        make: the unscheduled function for a target.
        on: what it multiplies with, of those that a processor without and with i8mm has.
    """

    name: str
    make: Callable[[Target], tirx.PrimFunc]
    on: Callable[[bool], tuple[Instruction, ...]]


def _codes(i8mm: bool) -> tuple[Instruction, ...]:
    return (USDOT,) if i8mm else (SDOT,)


def _dense_codes(i8mm: bool) -> tuple[Instruction, ...]:
    return (USDOT, USMMLA) if i8mm else (SDOT,)


def _floats(i8mm: bool) -> tuple[Instruction, ...]:
    return (FMLA,)


def _halves(i8mm: bool) -> tuple[Instruction, ...]:
    return (FMLA_HALF,)


_KEPT = round(INPUTS * DENSITY)
_TAPS = WINDOW.channels * WINDOW.taps

FAMILIES = (
    Family("GEMM fp32", lambda on: dense(ROWS, INPUTS, OUTPUTS, on.block), _floats),
    Family("GEMM fp16", lambda on: dense_fp16(ROWS, INPUTS, OUTPUTS, on.block), _halves),
    Family("GEMM int8", lambda on: dense_int8(ROWS, INPUTS, OUTPUTS, on.block), _dense_codes),
    Family("sparse fp32", lambda on: sparse(ROWS, INPUTS, OUTPUTS, on.block, _KEPT), _floats),
    Family(
        "sparse int8",
        lambda on: sparse_int8(ROWS, INPUTS, OUTPUTS, on.block, _KEPT // GROUP),
        _codes,
    ),
    Family(
        "conv 3x3 fp32",
        lambda on: conv(1, WINDOW, WINDOW.channels, on.block, strip_bytes(on)),
        _floats,
    ),
    Family(
        "conv 3x3 fp16",
        lambda on: conv_fp16(1, WINDOW, WINDOW.channels, on.block, strip_bytes(on)),
        _halves,
    ),
    Family(
        "conv 3x3 int8",
        lambda on: conv_int8(1, WINDOW, WINDOW.channels, on.block, strip_bytes(on)),
        _dense_codes,
    ),
    Family(
        "conv sparse fp32",
        lambda on: conv_sparse(
            1, WINDOW, WINDOW.channels, on.block, round(_TAPS * DENSITY), strip_bytes(on)
        ),
        _floats,
    ),
    Family(
        "conv pattern",
        lambda on: conv_pattern(
            1, WINDOW, WINDOW.channels, PATTERN_KERNELS, PATTERNS, PATTERN_TAPS, strip_bytes(on)
        ),
        _floats,
    ),
    Family("attention fp32", lambda on: attention(1, 128, 12, 32, (1, 1, 1, 128), 0.18), _floats),
    Family(
        "attention int8", lambda on: attention_int8(1, 128, 12, 32, (1, 1, 1, 128), 0.18), _codes
    ),
)
