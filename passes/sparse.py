"""Balanced vector sparsity: every block of outputs reads its own list of equally many inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.format_linear import format_linear
from passes.formats import Format, Solved
from passes.model import Model
from passes.report import Refusal, Report

if TYPE_CHECKING:
    from passes.sites import Linear
    from targets.target import Target

NAME = "sparse"


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


def sparsify(model: Model, linear: Linear, solved: Solved, target: Target) -> tuple[Model, Report]:
    """Give a linear layer the float32 sparse kernel; ``solved`` as ``solve_linear`` gives it."""
    return format_linear(model, linear, solved, target)


def form(setting: Mapping[str, float], target: Target) -> Format:
    """The format that a setting of ``choices`` stands for."""
    return Format(bits=32, density=setting["density"], block=target.block)


def choices(
    site: Linear, target: Target, config: SparseConfig | None = None
) -> tuple[list[dict[str, float]], list[Refusal]]:
    """Settings ``{"density": share}`` offered for a site, densest first, and what is refused."""
    config = config or SparseConfig()
    offers: list[dict[str, float]] = []
    refusals: list[Refusal] = []
    for density in sorted(config.densities, reverse=True):
        reason = refused(site, form({"density": density}, target), config)
        if reason is None:
            offers.append({"density": density})
        else:
            refusals.append(Refusal(site.name, f"{NAME} {density:g}", reason))
    return offers, refusals


def refused(site: Linear, form: Format, config: SparseConfig) -> str | None:
    """Why a sparse format is not offered for a layer; None if it is."""
    n, k = site.out_features, site.in_features
    kept = form.kept_groups(k) * form.group
    if n < form.block:
        return f"{n} outputs do not fill one block of {form.block}"
    if k < config.min_inputs:
        return f"{k} inputs are too few to gain from sparsity (at least {config.min_inputs})"
    if kept >= k:
        return f"all {k} inputs would be kept"
    if kept < config.min_kept:
        return f"{kept} kept inputs are too few for the loop to pay (at least {config.min_kept})"
    return None
