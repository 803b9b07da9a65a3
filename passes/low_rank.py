"""Low rank: a linear layer as two thin ones, ``y = second (first x) + b``.

No kernel of its own: both products are of the canonical form, and the few columns between them stay in
cache. On AVX-512 (128 rows, 384 to 768 inputs, 1536 to 3072 outputs, ranks 32 to 128) the two kernels
together took no longer than their share of the dense one's products, so that fusing them has nothing
to gain. Of a convolution the first product is a convolution with fewer outputs, the second a 1x1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.errors import PassError
from passes.formats import Format, Parts, Place, Solved, Writer
from passes.report import Refusal
from passes.solve.low_rank import factorize

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from targets.kernels.window import Window
    from targets.target import Target

NAME = "low_rank"


@dataclass(frozen=True)
class LowRank(Format):
    """The product of two float32 weights, [N, rank] and [rank, K].

    Attributes:
        rank: columns between the two layers.
    """

    rank: int

    name: ClassVar[str] = NAME

    @property
    def setting(self) -> dict[str, Any]:
        return {"rank": self.rank}

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        factors = factorize(weight, gram.xx, min(self.rank, *weight.shape))
        return factors.product, {"first": factors.first, "second": factors.second}

    def placeholder(self, rows: int, columns: int) -> Parts:
        rank = min(self.rank, rows, columns)
        first, second = ((rank, columns), (rows, rank))
        return {"first": np.zeros(first, np.float32), "second": np.zeros(second, np.float32)}

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        first, second = required_parts(solved, site, "first", "second")
        shape = solved.weight.shape
        if (len(second), *first.shape[1:]) != shape or len(first) != second.shape[1]:
            raise PassError(
                f"the factors do not fit {site.name}",
                got=f"{second.shape} x {first.shape}",
                allowed=f"({shape[0]}, r) x (r, {shape[1]})",
            )
        if site.window is not None:
            first = first.reshape(len(first), -1, *site.window.kernel)
        return {"first": first, "second": second}

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        first, second = weights
        window = to.site.window
        narrow = linear_on(graph, x, first) if window is None else conv_on(x, first, window)
        return linear_on(graph, graph.emit(narrow, "low_rank"), second)

    def __str__(self) -> str:
        return f"fp32 rank {self.rank}"


@dataclass(frozen=True)
class LowRankConfig:
    """What is offered.

    Attributes:
        shares: multiply-adds (and weights) left, as shares of the dense layer's; the rank that has
            them is rounded to full packed blocks of the target.
        most: a rank that leaves a larger share than this is refused: two kernels cost more than one.
    """

    shares: tuple[float, ...] = (0.75, 0.5, 0.25)
    most: float = 0.85


def form(setting: Mapping[str, Any], target: Target) -> LowRank:
    """The format that a setting stands for."""
    return LowRank(int(setting["rank"]))


def choices(
    site: Linear, target: Target, config: LowRankConfig | None = None
) -> tuple[list[LowRank], list[Refusal]]:
    """Formats offered for a site, largest rank first, and what is refused."""
    config = config or LowRankConfig()
    n, k, block = site.out_features, site.in_features, target.block
    offers: list[LowRank] = []
    refusals: list[Refusal] = []
    for share in sorted(config.shares, reverse=True):
        rank = max(1, round(share * n * k / (n + k) / block)) * block
        reason = refused(site, rank, config)
        if reason is not None:
            refusals.append(Refusal(site.name, f"{NAME} {share:g}", reason))
        elif LowRank(rank) not in offers:
            offers.append(LowRank(rank))
    return offers, refusals


def refused(site: Linear, rank: int, config: LowRankConfig) -> str | None:
    """Why a rank is not offered for a layer; None if it is."""
    n, k = site.out_features, site.in_features
    left = rank * (n + k) / (n * k)
    if rank >= min(n, k):
        return f"rank {rank} is full: the layer has {min(n, k)}"
    if left > config.most:
        return (
            f"rank {rank} leaves {left:.0%} of the products in two kernels "
            f"(at most {config.most:.0%})"
        )
    return None


def linear_on(graph: Writer, x: relax.Expr, weight: relax.Var) -> relax.Expr:
    """``matmul(x, permute_dims(weight))``, the canonical product of a linear layer."""
    return relax.op.matmul(x, graph.emit(relax.op.permute_dims(weight, [1, 0])))


def conv_on(x: relax.Expr, weight: relax.Var, window: Window) -> relax.Expr:
    """The canonical convolution of x with the geometry of ``window``, whatever its channels."""
    return relax.op.nn.conv2d(
        x, weight, strides=window.strides, padding=window.padding, dilation=window.dilation,
        data_layout="NHWC", kernel_layout="OIHW", out_layout="NHWC",
    )  # fmt: skip


def required_parts(solved: Solved, site: Linear, *names: str) -> list[NDArray[Any]]:
    """Parts of a solved layer; raises PassError if it lacks one."""
    missing = [name for name in names if name not in solved.parts]
    if missing:
        raise PassError(
            f"{site.name} is to be {solved.format} and has no {missing[0]}",
            next="solve it for this format before the rewrite",
        )
    return [solved.parts[name] for name in names]
