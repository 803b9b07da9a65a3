"""int8: weights with a scale per output channel, activations as uint8 per token; dense or sparse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes import sparse
from passes.channel_groups import Grouped
from passes.errors import PassError
from passes.formats import ROWS, Balanced, Format, Parts, Place, Seen, Solved, Writer
from passes.report import Refusal
from passes.solve.gptq import codes_of, quantize_rows
from passes.sparse import SparseConfig, required_mask
from targets.kernels.linear_int8 import GROUP, dense_int8, pack_int8
from targets.kernels.linear_sparse_int8 import pack_sparse_int8, sparse_int8

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from targets.target import Target

NAME = "int8"


@dataclass(frozen=True)
class Int8(Format):
    """int8 weights per output channel, uint8 activations quantised per token as they come.

    Attributes:
        density: share of inputs kept for each block of outputs, in groups of four; 1 is dense.
        block: outputs that share one list of kept inputs, and the width of a packed weight block.
    """

    density: float
    block: int

    name: ClassVar[str] = NAME

    @property
    def setting(self) -> dict[str, Any]:
        return {} if self.density >= 1 else {"density": self.density}

    @property
    def structure(self) -> Grouped | None:
        return None if self.density >= 1 else Balanced(self.density, GROUP, self.block)

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        weight, scale = quantize_rows(weight, gram.xx, mask, group=GROUP, block=self.block)
        return weight, {"scale": scale}

    def seen(self, parts: Parts) -> Seen:
        return ROWS

    def placeholder(self, rows: int, columns: int) -> Parts:
        return {**super().placeholder(rows, columns), "scale": np.ones(rows, np.float32)}

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        if solved.scale is None:
            raise PassError(f"{site.name} is to be int8 and has no scale")
        codes = codes_of(solved.weight, solved.scale)
        if self.structure is None:
            q, total = pack_int8(codes, block)
            return {"q": q, "scale": solved.scale, "sum": total}
        mask = required_mask(solved, self.block, block)
        q, index, total = pack_sparse_int8(codes, mask, block)
        return {"values": q, "index": index, "scale": solved.scale, "sum": total}

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        *lead, k = (int(d) for d in x.ty.shape.values)
        n = len(solved.weight)
        if self.structure is None:
            kernel = graph.kernel(dense_int8(lead, k, n, to.block), "linear_int8")
        else:
            kept = int(weights[1].ty.shape.values[1])
            func = sparse_int8(lead, k, n, to.block, kept)
            kernel = graph.kernel(func, "linear_sparse_int8")
        return relax.call_tir(kernel, [*graph.seen(x, ROWS), *weights], to.ty)

    def __str__(self) -> str:
        return "int8" if self.density >= 1 else f"int8 density {self.density:g}"


@dataclass(frozen=True)
class Int8Config:
    """What is offered.

    Attributes:
        densities: shares of the inputs kept for each block of outputs; 1 is dense.
        needs_dot_product: refuse int8 on targets that lack an instruction for it; False offers it
            all the same, and leaves the judgement to measurement.
        min_inputs: a layer with fewer inputs stays float32: quantising a row costs a pass over it.
        min_outputs: a layer with fewer outputs stays float32, for the same reason.
        sparse: limits of the sparse formats.
    """

    densities: tuple[float, ...] = (1.0, 0.75, 0.5, 0.375, 0.25)
    needs_dot_product: bool = True
    min_inputs: int = 32
    min_outputs: int = 32
    sparse: SparseConfig = field(default_factory=SparseConfig)


def form(setting: Mapping[str, Any], target: Target) -> Int8:
    """The format that a setting stands for."""
    return Int8(float(setting.get("density", 1.0)), target.block)


def choices(
    site: Linear, target: Target, config: Int8Config | None = None
) -> tuple[list[Int8], list[Refusal]]:
    """Formats offered for a site, densest first, and what is refused."""
    config = config or Int8Config()
    reason = _needs_static(site) or refused(site, target, config)
    if reason is not None:
        return [], [Refusal(site.name, NAME, reason)]
    offers: list[Int8] = []
    refusals: list[Refusal] = []
    for density in sorted(config.densities, reverse=True):
        packed = Int8(density, target.block)
        structure = packed.structure
        reason = None if structure is None else sparse.refused(site, structure, config.sparse)
        if reason is None:
            offers.append(packed)
        else:
            refusals.append(Refusal(site.name, f"{NAME} {density:g}", reason))
    return offers, refusals


def lacks_dot_product(target: Target) -> str | None:
    """What a target lacks that int8 products gain from; None if it lacks nothing."""
    if target.dot:
        return None
    if target.gpu is not None:  # TVM has no dot product of bytes for OpenCL; others gain nothing
        return f"{target.name}: int8 products gain nothing on its GPU (docs/gpu.md says why)"
    return f"{target.name} has no instruction for int8 dot products (VNNI; SDOT or USDOT on ARM)"


def _needs_static(site: Linear) -> str | None:
    """Why a layer cannot have scales that come with its rows; None if it can."""
    if site.window is None:
        return None
    return "a convolution reads windows of many rows, and each row would have a scale of its own"


def refused(site: Linear, target: Target, config: Int8Config) -> str | None:
    """Why no int8 is offered for a layer, dynamic or static; None if it is."""
    if config.needs_dot_product and (lack := lacks_dot_product(target)) is not None:
        return lack
    if site.in_features < config.min_inputs:
        return f"{site.in_features} inputs are too few to pay for quantising them"
    if site.out_features < config.min_outputs:
        return f"{site.out_features} outputs are too few to pay for quantising them"
    return None
