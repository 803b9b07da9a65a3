"""Weight-only int8 and int4: codes by group of inputs in memory, float32 arithmetic on float32 inputs.

For layers of few rows (heads of CNNs and language models, single tokens), which wait for their weights.
On one AVX-512 core one row took a quarter of the dense time with 8 bits and a fifth with 4 while the
weights were in a cache; from memory (25088 x 4096) a quarter and a sixth. With many rows arithmetic is
the limit, and decoding adds to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.formats import Format, Parts, Place, Solved, Writer
from passes.low_rank import required_parts
from passes.report import Refusal
from passes.solve.group_scales import Grid, group_codes, quantize_groups
from targets.kernels.linear_weight_only import Codes, pack_weight_only, weight_only

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from targets.target import Target

NAME = "weight_only"


@dataclass(frozen=True)
class WeightOnly(Format):
    """Codes of 4 or 8 bits with a scale, and unless symmetric a zero point, for each group of inputs.

    Attributes:
        bits: 4 or 8.
        group: inputs that share them, a multiple of 8.
        symmetric: without zero points.
    """

    bits: int
    group: int
    symmetric: bool = True

    name: ClassVar[str] = NAME

    @property
    def codes(self) -> Codes:
        return Codes(self.bits, self.group, self.symmetric)

    @property
    def setting(self) -> dict[str, Any]:
        return {"bits": self.bits, "group": self.group, "symmetric": self.symmetric}

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        effective, grid = quantize_groups(weight, gram.xx, self.codes)
        return effective, {"scale_of_group": grid.scale, "zero_of_group": grid.zero}

    def placeholder(self, rows: int, columns: int) -> Parts:
        shape = (rows, self.codes.groups(columns))
        zero = np.full(shape, self.codes.middle, np.float32)
        return {"scale_of_group": np.ones(shape, np.float32), "zero_of_group": zero}

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        scale, zero = required_parts(solved, site, "scale_of_group", "zero_of_group")
        code = group_codes(solved.weight, Grid(scale, zero), self.codes)
        points = None if self.symmetric else zero.astype(np.int16)
        packed = pack_weight_only(self.codes, code, scale, points, block)
        return dict(zip(("q", "scale", "zero"), packed, strict=False))

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        *lead, k = (int(d) for d in x.ty.shape.values)
        func = weight_only(lead, k, len(solved.weight), to.block, self.codes)
        return relax.call_tir(graph.kernel(func, "linear_weight_only"), [x, *weights], to.ty)

    def __str__(self) -> str:
        kind = "" if self.symmetric else " with zero points"
        return f"int{self.bits} weights by {self.group}{kind}"


@dataclass(frozen=True)
class WeightOnlyConfig:
    """What is offered.

    Attributes:
        codes: bits, inputs of a group, symmetric.
        most_rows: a layer with more rows is refused: it does not wait for its weights.
        min_weights: a layer with fewer weights is refused: they are in the nearest cache anyway.
    """

    codes: tuple[tuple[int, int, bool], ...] = ((8, 128, True), (4, 64, True), (4, 32, False))
    most_rows: int = 16
    min_weights: int = 1 << 14


def form(setting: Mapping[str, Any], target: Target) -> WeightOnly:
    """The format that a setting stands for."""
    return WeightOnly(int(setting["bits"]), int(setting["group"]), bool(setting["symmetric"]))


def choices(
    site: Linear, target: Target, config: WeightOnlyConfig | None = None
) -> tuple[list[WeightOnly], list[Refusal]]:
    """Formats offered for a site, most bits first, and what is refused."""
    config = config or WeightOnlyConfig()
    if (reason := refused(site, config)) is not None:
        return [], [Refusal(site.name, NAME, reason)]
    return [WeightOnly(*codes) for codes in config.codes], []


def refused(site: Linear, config: WeightOnlyConfig) -> str | None:
    """Why weight-only codes are not offered for a layer; None if they are."""
    if site.window is not None:
        return "a convolution reads its weights many times: it does not wait for them"
    if site.rows > config.most_rows:
        return (
            f"{site.rows} rows make arithmetic the limit, not memory (at most {config.most_rows})"
        )
    if site.in_features * site.out_features < config.min_weights:
        return (
            f"{site.in_features * site.out_features} weights are too few to wait for "
            f"(at least {config.min_weights})"
        )
    return None
