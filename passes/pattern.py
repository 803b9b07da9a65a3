"""Pattern pruning of convolutions: every kernel keeps a few of its entries, in one of a few shapes.

PCONV (Ma et al. 2020) and PatDNN (Niu et al. 2020) choose a pattern for each single kernel and remove
whole kernels besides (connectivity pruning). Shared by the outputs of a register tile, a pattern costs
the vector-sparse kernel nothing: it reads fewer inputs for each block of outputs, and runs as densely.
Patterns of single kernels have a kernel of their own, with vectors over the columns of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.formats import Parts, Place, Pruned, Solved, Structure, Writer
from passes.report import Refusal
from passes.solve.patterns import natural_entries, natural_patterns, prune_patterns
from passes.sparse import Sparse, required_mask
from targets.kernels.conv_pattern import conv_pattern, pack_pattern

if TYPE_CHECKING:
    from passes.sites import Linear
    from targets.target import Target

NAME = "pattern"

CONNECTIVITY = 3.6
"""Kernels for each one that connectivity pruning leaves, as PatDNN's."""


@dataclass(frozen=True)
class Patterned:
    """Every block of outputs keeps equally many input channels, each in one of a few patterns.

    Attributes:
        kernel: rows and columns of a kernel.
        keep: share of the input channels kept.
        count: patterns to choose from.
        block: outputs that share channels and patterns.
    """

    kernel: tuple[int, int]
    keep: float
    count: int
    block: int

    def kept(self, columns: int) -> int:
        """Input channels kept, of a weight of ``columns`` inputs."""
        channels = columns // (self.kernel[0] * self.kernel[1])
        return max(1, min(channels, round(self.keep * channels)))

    def empty(self, rows: int, columns: int) -> NDArray[np.bool_]:
        mask = np.zeros((-(-rows // self.block), columns), np.bool_)
        mask[:, : self.kept(columns) * natural_entries(self.kernel)] = True
        return mask

    def prune(self, weight: NDArray[np.float64], gram: NDArray[np.float64]) -> Pruned:
        patterns = natural_patterns(weight, gram, self.kernel, self.count, block=self.block)
        return prune_patterns(weight, gram, patterns, self.kept(weight.shape[1]), self.block)


@dataclass(frozen=True)
class Pattern(Sparse):
    """A convolution with patterns: ``density`` is the share of input channels kept for each block.

    Attributes:
        kernel: rows and columns of a kernel.
        count: patterns of the layer.
    """

    kernel: tuple[int, int] = (3, 3)
    count: int = 8

    name: ClassVar[str] = NAME

    @property
    def setting(self) -> dict[str, Any]:
        """The share of channels, the outputs that share patterns, and the kernel unless it is 3x3."""
        kernel = {} if self.kernel == (3, 3) else {"kernel": list(self.kernel)}
        return {"channels": self.density, "shared": self.block, **kernel}

    @property
    def structure(self) -> Structure:
        return Patterned(self.kernel, self.density, self.count, self.block)

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        if self.block > 1:
            return super().pack(solved, site, block)
        assert site.window is not None
        window = site.window.with_channels(solved.weight.shape[1] // site.taps)
        weight = solved.weight.reshape(-1, window.channels, *window.kernel)
        packed = pack_pattern(weight, required_mask(solved, 1, block), window)
        return dict(zip(("values", "channel", "pattern", "table"), packed, strict=True))

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        if self.block > 1:
            return super().write(graph, x, weights, solved, to)
        assert to.site.window is not None
        batch, *_, channels = (int(d) for d in x.ty.shape.values)
        window = to.site.window.with_channels(channels)
        n, kept, taps = (int(d) for d in weights[0].ty.shape.values)
        patterns = int(weights[3].ty.shape.values[0])
        func = conv_pattern(batch, window, n, kept, patterns, taps, to.strip)
        kernel = graph.kernel(func, "conv_pattern")
        return relax.call_tir(kernel, [x, *weights], to.ty)

    def __str__(self) -> str:
        kept = natural_entries(self.kernel)
        connected = "" if self.density >= 1 else f", {self.density:.2g} of the channels"
        taps = self.kernel[0] * self.kernel[1]
        shared = f"shared by {self.block}" if self.block > 1 else "of single kernels"
        return f"patterns of {kept} in {taps} {shared}{connected}"


@dataclass(frozen=True)
class PatternConfig:
    """What is offered.

    Attributes:
        shares: shares of the input channels kept for each block of outputs.
        parts: outputs that share patterns, as parts of the target's block: 1 is the whole block.
        single: offer patterns of single kernels too. They keep more quality, but cost the solver a problem
            for each output, and their kernel is slower than patterns shared by the fewest outputs.
        min_channels: a convolution of fewer input channels is left as it is.
    """

    shares: tuple[float, ...] = (1.0, 0.5, 1 / CONNECTIVITY)
    parts: tuple[int, ...] = (1, 2, 4)
    single: bool = False
    min_channels: int = 16


def form(setting: Mapping[str, Any], target: Target) -> Pattern:
    """The format that a setting stands for."""
    rows, columns = setting.get("kernel", (3, 3))
    kernel = (int(rows), int(columns))
    return Pattern(float(setting["channels"]), int(setting["shared"]), kernel)


def choices(
    site: Linear, target: Target, config: PatternConfig | None = None
) -> tuple[list[Pattern], list[Refusal]]:
    """Formats offered for a site, those that keep most first, and what is refused."""
    config = config or PatternConfig()
    if (reason := refused(site, target, config)) is not None:
        return [], [Refusal(site.name, NAME, reason)]
    assert site.window is not None
    single = config.single and site.window.strides == (1, 1)
    blocks = [*(target.block // part for part in config.parts), *([1] if single else [])]
    offers = [
        Pattern(share, block, site.window.kernel)
        for share in sorted(config.shares, reverse=True)
        for block in blocks
    ]
    if config.single and not single:
        return offers, [
            Refusal(site.name, f"{NAME} of single kernels", "its kernel has no strides")
        ]
    return offers, []


def refused(site: Linear, target: Target, config: PatternConfig | None = None) -> str | None:
    """Why patterns are not offered for a layer, of float32 or of codes; None if they are."""
    config = config or PatternConfig()
    if site.window is None:
        return "only kernels of several entries have patterns: it is no convolution, or a 1x1 one"
    if min(site.window.kernel) < 3:
        rows, columns = site.window.kernel
        return f"a {rows}x{columns} kernel has too few entries for patterns"
    if site.window.channels < config.min_channels:
        channels = site.window.channels
        return f"{channels} input channels are too few (at least {config.min_channels})"
    if site.out_features < target.block:
        return f"{site.out_features} outputs do not fill one block of {target.block}"
    return None
