"""bfloat16: weights and activations rounded to 8 bits of significand, sums in float32.

Nothing is calibrated and little is lost: it is for layers that int8 harms, on CPUs that multiply such
numbers faster than float32 (AMX, AVX512_BF16). Measurement says whether this one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.errors import PassError
from passes.formats import BFLOAT16, Format, Parts, Place, Seen, Solved, Writer
from passes.report import Refusal
from targets.kernels.linear_bf16 import bf16_bits, bf16_values, dense_bf16, pack_bf16

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from targets.target import Target

NAME = "bf16"


@dataclass(frozen=True)
class Bf16(Format):
    """A dense layer in bfloat16."""

    name: ClassVar[str] = NAME

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        return bf16_values(bf16_bits(weight)), {}

    def seen(self, parts: Parts) -> Seen:
        return BFLOAT16

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        if not np.array_equal(bf16_values(bf16_bits(solved.weight)), solved.weight):
            raise PassError(f"{site.name} is to be bfloat16 and its weight is not")
        return {"b": pack_bf16(solved.weight, block)}

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        *lead, k = (int(d) for d in x.ty.shape.values)
        func = dense_bf16(lead, k, len(solved.weight), to.block)
        kernel = graph.kernel(func, "linear_bf16")
        return relax.call_tir(kernel, [*graph.seen(x, BFLOAT16), *weights], to.ty)

    def __str__(self) -> str:
        return "bf16"


@dataclass(frozen=True)
class Bf16Config:
    """What is offered.

    Attributes:
        needs_instruction: refuse it on targets that lack an instruction for it; False offers it all the
            same, and leaves the judgement to measurement.
        min_inputs: a layer with fewer inputs stays float32: rounding a row costs a pass over it.
        min_outputs: a layer with fewer outputs stays float32, for the same reason.
    """

    needs_instruction: bool = True
    min_inputs: int = 32
    min_outputs: int = 32


def form(setting: Mapping[str, Any], target: Target) -> Bf16:
    """The format that a setting stands for."""
    return Bf16()


def choices(
    site: Linear, target: Target, config: Bf16Config | None = None
) -> tuple[list[Bf16], list[Refusal]]:
    """bfloat16 for a site, or why not."""
    reason = refused(site, target, config or Bf16Config())
    return ([Bf16()], []) if reason is None else ([], [Refusal(site.name, NAME, reason)])


def refused(site: Linear, target: Target, config: Bf16Config) -> str | None:
    """Why bfloat16 is not offered for a layer; None if it is."""
    if config.needs_instruction and not (target.has_bf16 or target.has_tiles):
        return f"{target.name} has no instruction for bfloat16 products (AVX512_BF16, AMX)"
    if site.window is not None:
        return "there is no bfloat16 kernel for convolutions over more than one position"
    if site.in_features < config.min_inputs:
        return f"{site.in_features} inputs are too few to pay for rounding rows"
    if site.out_features < config.min_outputs:
        return f"{site.out_features} outputs are too few to pay for rounding rows"
    return None
