"""Tucker-2: a convolution as a 1x1 to fewer channels, the old window on them, and a 1x1 to all outputs.

No kernel of its own: the 1x1 convolutions are linear layers of the canonical form, the core is a
convolution like any other. A window that reaches into padding reads zeros behind the first layer as
before it, for that layer has no bias.
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
from passes.low_rank import conv_on, linear_on, required_parts
from passes.report import Refusal
from passes.solve.tucker import tucker2

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from targets.target import Target

NAME = "tucker"


@dataclass(frozen=True)
class Tucker(Format):
    """Three float32 convolutions; only the core has a window.

    Attributes:
        rank_in, rank_out: channels of the core's input and output.
        kernel: (rows, columns) of the window.
    """

    rank_in: int
    rank_out: int
    kernel: tuple[int, int]

    name: ClassVar[str] = NAME

    @property
    def setting(self) -> dict[str, Any]:
        return {"in": self.rank_in, "out": self.rank_out, "kernel": list(self.kernel)}

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        rank_in, rank_out = self._ranks(*weight.shape)
        image = weight.reshape(len(weight), -1, *self.kernel)
        factors = tucker2(image, rank_in, rank_out, gram.xx)
        return factors.product.reshape(weight.shape), factors._asdict()

    def placeholder(self, rows: int, columns: int) -> Parts:
        rank_in, rank_out = self._ranks(rows, columns)
        channels = columns // int(np.prod(self.kernel))
        shapes = {
            "first": (rank_in, channels),
            "core": (rank_out, rank_in, *self.kernel),
            "last": (rows, rank_out),
        }
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        first, core, last = required_parts(solved, site, "first", "core", "last")
        outputs, columns = solved.weight.shape
        rank_out, rank_in, *kernel = core.shape
        channels = columns // int(np.prod(self.kernel))
        fits = first.shape == (rank_in, channels) and last.shape == (outputs, rank_out)
        window = None if site.window is None else site.window.kernel
        if not fits or not tuple(kernel) == self.kernel == window:
            raise PassError(
                f"the factors do not fit {site.name}",
                got=f"{first.shape}, {core.shape}, {last.shape}",
                allowed=f"[r_in, C], [r_out, r_in, kh, kw], [O, r_out] for {list(site.shape)}",
            )
        return {"first": first, "core": core, "last": last}

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        first, core, last = weights
        assert to.site.window is not None
        narrow = graph.emit(linear_on(graph, x, first), "channels")
        return linear_on(graph, graph.emit(conv_on(narrow, core, to.site.window), "core"), last)

    def __str__(self) -> str:
        return f"fp32 channels {self.rank_in} in, {self.rank_out} out"

    def _ranks(self, rows: int, columns: int) -> tuple[int, int]:
        """Channels of the core for a weight of which others were removed before."""
        taps = int(np.prod(self.kernel))
        rank_in = min(self.rank_in, columns // taps)
        return rank_in, min(self.rank_out, rows, rank_in * taps)


@dataclass(frozen=True)
class TuckerConfig:
    """What is offered.

    Attributes:
        shares: channels kept, in and out alike; rounded to full packed blocks of the target.
        most: channels that leave a larger share of the products than this are refused: three
            kernels cost more than one.
    """

    shares: tuple[float, ...] = (0.75, 0.5, 0.25)
    most: float = 0.85


def form(setting: Mapping[str, Any], target: Target) -> Tucker:
    """The format that a setting stands for."""
    kh, kw = setting["kernel"]
    return Tucker(int(setting["in"]), int(setting["out"]), (int(kh), int(kw)))


def choices(
    site: Linear, target: Target, config: TuckerConfig | None = None
) -> tuple[list[Tucker], list[Refusal]]:
    """Formats offered for a site, most channels first, and what is refused."""
    config = config or TuckerConfig()
    if site.window is None:
        return [], [Refusal(site.name, NAME, "a linear layer has no window: low rank serves it")]
    offers: list[Tucker] = []
    refusals: list[Refusal] = []
    for share in sorted(config.shares, reverse=True):
        rank_in = _blocks(share * site.window.channels, target)
        rank_out = _blocks(share * site.out_features, target)
        offer = Tucker(rank_in, rank_out, site.window.kernel)
        reason = refused(site, offer, config)
        if reason is not None:
            refusals.append(Refusal(site.name, f"{NAME} {share:g}", reason))
        elif offer not in offers:
            offers.append(offer)
    return offers, refusals


def refused(site: Linear, offer: Tucker, config: TuckerConfig) -> str | None:
    """Why channels are not offered for a convolution; None if they are."""
    window = site.window
    assert window is not None
    rank_in, rank_out, outputs = offer.rank_in, offer.rank_out, site.out_features
    if window.taps == 1:
        return "a 1x1 window has no taps to gain from: low rank serves it"
    if rank_in >= window.channels or rank_out >= outputs:
        return (
            f"{rank_in} in and {rank_out} out of {window.channels} and {outputs} channels "
            "leave none out"
        )
    first = rank_in * window.channels * window.height * window.width
    places = window.out_height * window.out_width
    behind = (rank_in * rank_out * window.taps + rank_out * outputs) * places
    left = (first + behind) / (outputs * window.features * places)
    if left > config.most:
        return (
            f"{rank_in} in and {rank_out} out leave {left:.0%} of the products in three kernels "
            f"(at most {config.most:.0%})"
        )
    return None


def _blocks(channels: float, target: Target) -> int:
    return max(1, round(channels / target.block)) * target.block
