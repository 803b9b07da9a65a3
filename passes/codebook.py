"""Codebooks: a layer's weights take few values, for bytes on disk and on the way to a device.

What runs is the dense float32 layer, as fast and as slow as before; the bundle stores the values and
entropy-coded codes of them, and expands them when it is opened (`codesign.coded`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.formats import Format, Parts, Place, Solved, Writer
from passes.report import Refusal
from passes.solve.codebook import cluster

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from targets.target import Target

NAME = "codebook"


@dataclass(frozen=True)
class Codebook(Format):
    """A dense float32 weight of few values, zero among them.

    Attributes:
        values: at most so many, up to 256.
        block: outputs that share them, a packed block of the target; 0 is all.
    """

    values: int
    block: int = 0

    name: ClassVar[str] = NAME
    in_place: ClassVar[bool] = True

    @property
    def setting(self) -> dict[str, Any]:
        return {"values": self.values, **({"block": self.block} if self.block else {})}

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        return cluster(weight, gram.xx, self.values, self.block or None), {}

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        return {}

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        raise NotImplementedError("a layer of few values stays in the graph as it is")

    def __str__(self) -> str:
        return f"fp32 of {self.values} values" + (f" by {self.block}" if self.block else "")


@dataclass(frozen=True)
class CodebookConfig:
    """What is offered.

    Attributes:
        values: of a codebook.
        by_block: a codebook for each packed block of outputs, not for the layer.
        min_weights: for each value; a layer with fewer is refused: the codebook would be its size.
    """

    values: tuple[int, ...] = (256, 64, 32, 16)
    by_block: bool = False
    min_weights: int = 64


def form(setting: Mapping[str, Any], target: Target) -> Codebook:
    """The format that a setting stands for."""
    return Codebook(int(setting["values"]), int(setting.get("block", 0)))


def choices(
    site: Linear, target: Target, config: CodebookConfig | None = None
) -> tuple[list[Codebook], list[Refusal]]:
    """Formats offered for a site, most values first, and what is refused."""
    config = config or CodebookConfig()
    offers: list[Codebook] = []
    refusals: list[Refusal] = []
    outputs = min(target.block, site.out_features) if config.by_block else site.out_features
    weights = outputs * site.in_features
    for values in sorted(config.values, reverse=True):
        if weights < values * config.min_weights:
            reason = f"{weights} weights are too few for {values} values"
            refusals.append(Refusal(site.name, f"{NAME} {values}", reason))
        else:
            offers.append(Codebook(values, target.block if config.by_block else 0))
    return offers, refusals
