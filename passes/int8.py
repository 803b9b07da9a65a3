"""Dynamic int8: weights per output channel, activations per token; dense, or sparse by fours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes import sparse
from passes.format_linear import format_linear
from passes.formats import Format, Solved
from passes.model import Model
from passes.report import Refusal, Report
from passes.sparse import SparseConfig

if TYPE_CHECKING:
    from passes.sites import Linear
    from targets.target import Target

NAME = "int8"


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


def quantize(model: Model, linear: Linear, solved: Solved, target: Target) -> tuple[Model, Report]:
    """Give a linear layer the int8 kernel, sparse if ``solved`` is; see ``format_linear``."""
    return format_linear(model, linear, solved, target)


def form(setting: Mapping[str, float], target: Target) -> Format:
    """The format that a setting of ``choices`` stands for."""
    return Format(bits=8, density=setting["density"], block=target.block)


def choices(
    site: Linear, target: Target, config: Int8Config | None = None
) -> tuple[list[dict[str, float]], list[Refusal]]:
    """Settings ``{"density": share}`` offered for a site, densest first, and what is refused."""
    config = config or Int8Config()
    if (reason := _refused(site, target, config)) is not None:
        return [], [Refusal(site.name, NAME, reason)]
    offers: list[dict[str, float]] = []
    refusals: list[Refusal] = []
    for density in sorted(config.densities, reverse=True):
        packed = form({"density": density}, target)
        reason = None if packed.is_dense else sparse.refused(site, packed, config.sparse)
        if reason is None:
            offers.append({"density": density})
        else:
            refusals.append(Refusal(site.name, f"{NAME} {density:g}", reason))
    return offers, refusals


def lacks_dot_product(target: Target) -> str | None:
    """What a target lacks that int8 products gain from; None if it lacks nothing."""
    if target.has_vnni:
        return None
    return f"{target.name} has no instruction for int8 dot products (VNNI)"


def _refused(site: Linear, target: Target, config: Int8Config) -> str | None:
    """Why int8 is not offered at all for a layer; None if it is."""
    if config.needs_dot_product and (lack := lacks_dot_product(target)) is not None:
        return lack
    if site.in_features < config.min_inputs:
        return f"{site.in_features} inputs are too few to pay for quantising rows"
    if site.out_features < config.min_outputs:
        return f"{site.out_features} outputs are too few to pay for quantising rows"
    return None
