"""Static int8: as int8, but calibration fixes the scales of the activations.

Nothing then depends on the row at hand, so the codes are made by the kernel that produces the numbers
(see `targets.kernels.quantize_static`): layers that read nothing else need no pass over memory between
them. The price is scales that serve all rows; see `passes.solve.ranges` for how they are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx

from passes import int8, pattern, sparse
from passes.channel_groups import ChannelGroups, Grouped, PatternGroups, by_groups
from passes.errors import PassError
from passes.formats import Parts, Place, Seen, Solved, Writer
from passes.int8 import Int8, Int8Config
from passes.report import Refusal
from passes.solve.gptq import codes_of, quantize_rows
from passes.solve.ranges import WORTH, Codes, fitted
from passes.sparse import required_mask
from targets.kernels.conv_int8 import conv_int8, pack_conv_int8
from targets.kernels.conv_sparse_int8 import conv_sparse_int8, pack_conv_sparse_int8
from targets.kernels.linear_int8 import GROUP, pack_int8, static_int8, static_shift
from targets.kernels.linear_sparse_int8 import pack_sparse_int8, static_sparse_int8
from targets.kernels.quantize_static import quantizer

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from targets.kernels.window import Window
    from targets.target import Target

NAME = "int8_static"

METHOD = "minmax"
"""How ranges are chosen unless a setting says otherwise: with codes of its own for each channel, clipping
lost on MiniLM whatever it did to the mean squared error of the inputs."""


BEST = "best"
"""The method of `RANGES` whose solved weight leaves the least error of the layer's outputs."""

RANGES = ("minmax", "percentile 99.99", "mse")
"""What ``best`` tries; one that clips must leave `WORTH` of the error of the first or less."""


@dataclass(frozen=True)
class Int8Static(Int8):
    """int8 weights per output channel, uint8 activations by the scales and zero points of the layer.

    Attributes:
        method: how the range is chosen, see `passes.solve.ranges.fitted`; or ``best``.
        taps: positions of the kernel of a convolution, whose channels have a scale each.
        symmetric: code 128 is the zero of every channel.
        kernel: of patterns shared by four channels and ``block`` outputs, of which ``density`` is the
            share of channels; () for none.
    """

    method: str = METHOD
    taps: int = 1
    symmetric: bool = False
    kernel: tuple[int, ...] = ()

    name: ClassVar[str] = NAME

    @property
    def setting(self) -> dict[str, Any]:
        method = {} if self.method == METHOD else {"method": self.method}
        taps = {} if self.taps == 1 else {"taps": self.taps}
        symmetric = {"symmetric": True} if self.symmetric else {}
        kernel = {"kernel": list(self.kernel)} if self.kernel else {}
        return super().setting | method | taps | symmetric | kernel

    @property
    def structure(self) -> Grouped | None:
        if self.kernel:
            rows, columns = self.kernel
            return PatternGroups((rows, columns), self.density, self.block)
        if self.density >= 1 or self.taps == 1:
            return super().structure
        return ChannelGroups(self.density, self.taps, self.block)

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        methods = RANGES if self.method == BEST else (self.method,)
        found = [self._by(method, weight, mask, gram) for method in methods]
        if len(found) == 1:
            return found[0]
        errors = [self._error(weight, *way, gram.values.rows) for way in found]
        errors[0] *= WORTH
        return found[int(np.argmin(errors))]

    def _error(
        self,
        weight: NDArray[np.float32],
        effective: NDArray[np.float32],
        parts: Parts,
        rows: NDArray[np.float32],
    ) -> float:
        """Squared error of the outputs over sampled rows of inputs."""
        scale, zero = parts["x_scale"], parts["x_zero"]
        codes = Codes(scale.astype(np.float32), zero.astype(np.int32)).each(self.taps)
        change = codes.of(rows) @ effective.T - rows @ weight.T
        return float(np.square(change, dtype=np.float64).sum())

    def _by(
        self,
        method: str,
        weight: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        gram: Gram,
    ) -> tuple[NDArray[np.float32], Parts]:
        """``represent`` with the range that one method chooses."""
        codes = fitted(gram.values, weight, method, self.taps, self.symmetric)
        step = np.repeat(codes.scale.astype(np.float64), self.taps)
        order = np.arange(len(step)) if mask is None else by_groups(len(step), self.taps)
        # a step of an input is worth its scale times the weight, which is what has a grid
        unit = (gram.xx / np.outer(step, step))[np.ix_(order, order)]
        grid, scale = quantize_rows(
            (weight * step)[:, order], unit, mask, group=GROUP, block=self.block
        )
        effective = np.empty_like(weight, dtype=np.float64)
        effective[:, order] = grid
        parts: Parts = {"scale": scale, "x_scale": codes.scale, "x_zero": codes.zero}
        return (effective / step).astype(np.float32), parts

    def seen(self, parts: Parts) -> Seen:
        return Seen(8, tuple(parts["x_scale"].tolist()), tuple(parts["x_zero"].tolist()))

    def placeholder(self, rows: int, columns: int) -> Parts:
        channels = columns // self.taps
        inputs = {"x_scale": np.ones(channels, np.float32), "x_zero": np.zeros(channels, np.int32)}
        return super().placeholder(rows, columns) | inputs

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        if solved.scale is None or "x_scale" not in solved.parts:
            raise PassError(f"{site.name} is to be int8 with static scales and has none")
        scale, zero = solved.parts["x_scale"], solved.parts["x_zero"]
        step = np.repeat(scale.astype(np.float64), self.taps)
        codes = codes_of(solved.weight * step, solved.scale)
        mask = None if self.structure is None else required_mask(solved, self.block, block)
        inverse, offset = quantizer(scale, zero)
        inputs: Parts = {"inverse": inverse, "offset": offset}
        return inputs | packed_codes(codes, mask, solved.scale, zero, site, block)

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        inverse, offset, *packed = weights
        (codes,) = graph.seen(x, solved.seen, (inverse, offset))
        kept = None if solved.mask is None else int(solved.mask[0].sum())
        return product_of_codes(graph, codes, packed, _shape(x), kept, to)

    def __str__(self) -> str:
        text = "int8 static" if self.density >= 1 else f"int8 static density {self.density:g}"
        text += " in patterns" if self.kernel else ""
        text += " symmetric" if self.symmetric else ""
        return text if self.method == METHOD else f"{text} {self.method}"


class Kernels(Protocol):
    """A graph that takes kernels."""

    def kernel(self, func: tirx.PrimFunc, name: str) -> relax.GlobalVar:
        """Add a kernel; an equal one that is there already is used again."""


def product_of_codes(
    graph: Kernels,
    codes: relax.Var,
    packed: Sequence[relax.Var],
    inputs: Sequence[int],
    kept: int | None,
    to: Place,
) -> relax.Expr:
    """The call of the kernel that computes a layer from codes.

    Args:
        graph: where the kernel is added.
        codes: uint8, in whole groups of channels.
        packed: what ``packed_codes`` made.
        inputs: shape of the inputs before groups were filled up.
        kept: groups of inputs kept for each block of outputs; None for all.
        to: the layer, the packed block and the type of the result.
    """
    *lead, k = inputs
    n, dense = int(to.ty.shape.values[-1]), kept is None
    if to.site.window is None:
        func = (
            static_int8(lead, k, n, to.block)
            if kept is None
            else static_sparse_int8(lead, k, n, to.block, kept)
        )
    else:
        window = to.site.window.with_channels(_shape(codes)[-1])
        func = (
            conv_int8(lead[0], window, n, to.block, to.strip)
            if kept is None
            else conv_sparse_int8(lead[0], window, n, to.block, kept, to.strip)
        )
    kind = "linear" if to.site.window is None else "conv"
    name = f"{kind}_int8_static" if dense else f"{kind}_sparse_int8_static"
    return relax.call_tir(graph.kernel(func, name), [codes, *packed], to.ty)


def packed_codes(
    codes: NDArray[np.int8],
    mask: NDArray[np.bool_] | None,
    scale: NDArray[np.float32],
    zero: NDArray[np.int32],
    site: Linear,
    block: int,
) -> Parts:
    """What the kernel of a layer reads after the codes of its inputs.

    Args:
        codes: [N, K] of the weight.
        mask: kept groups of inputs; None if all are.
        scale: float32 [N], what a sum of products of codes is worth.
        zero: int32 [C], the codes of zero in each channel of the inputs, 0 to 255.
    """
    shift = static_shift(codes, np.repeat(zero, site.taps))
    if site.window is None:
        packed = _linear_weights(codes, mask, block)
    else:
        packed = _conv_weights(codes, mask, zero, site.window, block)
    return packed | {"scale": scale, "shift": shift}


def _linear_weights(codes: NDArray[np.int8], mask: NDArray[np.bool_] | None, block: int) -> Parts:
    """What the kernel of a linear layer reads."""
    if mask is None:
        return {"q": pack_int8(codes, block)[0]}
    values, index, _ = pack_sparse_int8(codes, mask, block)
    return {"values": values, "index": index}


def _conv_weights(
    codes: NDArray[np.int8],
    mask: NDArray[np.bool_] | None,
    zero: NDArray[np.int32],
    window: Window,
    block: int,
) -> Parts:
    """What the kernel of a convolution reads, the codes of padding among it."""
    image = codes.reshape(len(codes), len(zero), *window.kernel)
    window = window.with_channels(-(-len(zero) // GROUP) * GROUP)
    padding: Parts = {}
    if window.padded:
        wide = np.zeros(window.channels, np.uint8)
        wide[: len(zero)] = zero
        padding = {"zero": wide}
    if mask is None:
        return padding | {"q": pack_conv_int8(image, window, block)}
    values, index = pack_conv_sparse_int8(image, mask, window, block)
    return padding | {"values": values, "index": index}


def _shape(x: relax.Expr) -> list[int]:
    return [int(d) for d in x.ty.shape.values]


@dataclass(frozen=True)
class Int8StaticConfig:
    """What is offered.

    Attributes:
        methods: ways to choose the range, each of them an offer.
        symmetric: offer symmetric codes in place of those with zero points.
        patterns: shares of the channels kept by offers with patterns, of convolutions.
        int8: the densities and the limits of int8.
    """

    methods: tuple[str, ...] = (METHOD,)
    symmetric: bool = False
    patterns: tuple[float, ...] = ()
    int8: Int8Config = field(default_factory=Int8Config)


def form(setting: Mapping[str, Any], target: Target) -> Int8Static:
    """The format that a setting stands for."""
    density, method = float(setting.get("density", 1.0)), str(setting.get("method", METHOD))
    kernel = tuple(int(n) for n in setting.get("kernel", ()))
    symmetric, taps = bool(setting.get("symmetric", False)), int(setting.get("taps", 1))
    return Int8Static(density, target.block, method, taps, symmetric, kernel)


def choices(
    site: Linear, target: Target, config: Int8StaticConfig | None = None
) -> tuple[list[Int8Static], list[Refusal]]:
    """Formats offered for a site, densest first, and what is refused."""
    config = config or Int8StaticConfig()
    if (reason := int8.refused(site, target, config.int8)) is not None:
        return [], [Refusal(site.name, NAME, reason)]
    offers: list[Int8Static] = []
    refusals: list[Refusal] = []
    for density in sorted(config.int8.densities, reverse=True):
        found = [
            Int8Static(density, target.block, m, site.taps, config.symmetric)
            for m in config.methods
        ]
        if (reason := _too_sparse(site, found[0], config.int8)) is None:
            offers += found
        else:
            refusals.append(Refusal(site.name, f"{NAME} {density:g}", reason))
    if config.patterns and (reason := _no_patterns(site, target)) is not None:
        return offers, [*refusals, Refusal(site.name, f"{NAME} in patterns", reason)]
    window = site.window
    offers += [
        Int8Static(share, target.block, method, site.taps, config.symmetric, window.kernel)
        for share in sorted(config.patterns, reverse=True)
        for method in config.methods
        if window is not None
    ]
    return offers, refusals


def _no_patterns(site: Linear, target: Target) -> str | None:
    """Why no patterns are offered; None if they are."""
    if site.window is None or site.window.channels % GROUP == 0:
        return pattern.refused(site, target)
    return f"{site.window.channels} channels are no whole groups of {GROUP}, which share a pattern"


def _too_sparse(site: Linear, form: Int8Static, config: Int8Config) -> str | None:
    """Why a density is not offered; None if it is."""
    if form.structure is None:
        return None
    channels = site.in_features // site.taps
    if site.taps > 1 and channels % GROUP:
        return f"{channels} channels are no whole groups of {GROUP}, which stay or go together"
    return sparse.refused(site, form.structure, config.sparse)
