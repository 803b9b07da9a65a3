"""Balanced vector sparsity: every block of outputs reads its own list of equally many inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.channel_groups import Grouped
from passes.errors import PassError
from passes.formats import Balanced, Format, Parts, Place, Solved, Structure, Writer
from passes.report import Refusal
from targets.kernels.conv_sparse import conv_sparse, pack_conv_sparse
from targets.kernels.linear_sparse import pack_sparse, sparse

if TYPE_CHECKING:
    from passes.sites import Linear
    from targets.target import Target

NAME = "sparse"


@dataclass(frozen=True)
class Sparse(Format):
    """float32 weights, the same number of inputs for each block of outputs.

    Attributes:
        density: share of inputs kept, below 1.
        block: outputs that share one list of kept inputs, and the width of a packed weight block.
    """

    density: float
    block: int

    name: ClassVar[str] = NAME

    @property
    def setting(self) -> dict[str, Any]:
        return {"density": self.density}

    @property
    def structure(self) -> Structure:
        return Balanced(self.density, 1, self.block)

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        mask = required_mask(solved, self.block, block)
        if site.window is None:
            values, index = pack_sparse(solved.weight, mask, self.block)
        else:
            window = site.window.with_channels(solved.weight.shape[1] // site.taps)
            weight = solved.weight.reshape(-1, window.channels, *window.kernel)
            values, index = pack_conv_sparse(weight, mask, window, self.block)
        return {"values": values, "index": index}

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        *lead, k = (int(d) for d in x.ty.shape.values)
        values, index = weights
        n, kept = len(solved.weight), int(index.ty.shape.values[1])
        if to.site.window is None:
            kernel = graph.kernel(sparse(lead, k, n, self.block, kept), "linear_sparse")
        else:
            window = to.site.window.with_channels(k)
            func = conv_sparse(lead[0], window, n, self.block, kept, to.strip)
            kernel = graph.kernel(func, "conv_sparse")
        return relax.call_tir(kernel, [x, values, index], to.ty)

    def __str__(self) -> str:
        return f"fp32 density {self.density:g}"


@dataclass(frozen=True)
class SparseConfig:
    """What is offered.

    Attributes:
        densities: shares of the inputs kept for each block of outputs.
        min_inputs: a layer with fewer inputs is left dense.
        min_kept: a density that keeps fewer inputs than this is refused.
    """

    densities: tuple[float, ...] = (0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
    min_inputs: int = 64
    min_kept: int = 16


def form(setting: Mapping[str, Any], target: Target) -> Sparse:
    """The format that a setting stands for."""
    return Sparse(float(setting["density"]), target.block)


def choices(
    site: Linear, target: Target, config: SparseConfig | None = None
) -> tuple[list[Sparse], list[Refusal]]:
    """Formats offered for a site, densest first, and what is refused."""
    config = config or SparseConfig()
    offers: list[Sparse] = []
    refusals: list[Refusal] = []
    for density in sorted(config.densities, reverse=True):
        reason = refused(site, Balanced(density, 1, target.block), config)
        if reason is None:
            offers.append(Sparse(density, target.block))
        else:
            refusals.append(Refusal(site.name, f"{NAME} {density:g}", reason))
    return offers, refusals


def refused(site: Linear, structure: Grouped, config: SparseConfig) -> str | None:
    """Why a sparse structure is not offered for a layer; None if it is."""
    n, k = site.out_features, site.in_features
    kept = structure.kept(k) * structure.group
    if n < structure.block:
        return f"{n} outputs do not fill one block of {structure.block}"
    if k < config.min_inputs:
        return f"{k} inputs are too few to gain from sparsity (at least {config.min_inputs})"
    if kept >= k:
        return f"all {k} inputs would be kept"
    if kept < config.min_kept:
        return f"{kept} kept inputs are too few for the loop to pay (at least {config.min_kept})"
    return None


def required_mask(solved: Solved, own: int, block: int) -> NDArray[np.bool_]:
    """The mask of a sparse layer; raises PassError if it has none, or its blocks are not the target's."""
    if solved.mask is None or block % own:
        raise PassError(
            "a layer was solved for another block of outputs",
            got=str(own) if solved.mask is not None else "no mask",
            allowed=f"{block} on this target, or a part of it",
        )
    return solved.mask
