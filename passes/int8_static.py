"""Static int8: as int8, but calibration fixes the scales of the activations.

Nothing then depends on the row at hand, so the codes are made by the kernel that produces the numbers
(see `targets.kernels.quantize_static`): layers that read nothing else need no pass over memory between
them. The price is scales that serve all rows; see `passes.solve.ranges` for how they are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes import int8
from passes.errors import PassError
from passes.formats import Parts, Place, Seen, Solved, Writer
from passes.int8 import Int8, Int8Config
from passes.report import Refusal
from passes.solve.gptq import codes_of, quantize_rows
from passes.solve.ranges import fitted
from passes.sparse import required_mask
from targets.kernels.linear_int8 import GROUP, pack_int8, static_int8, static_shift
from targets.kernels.linear_sparse_int8 import pack_sparse_int8, static_sparse_int8
from targets.kernels.quantize_static import quantizer

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from targets.target import Target

NAME = "int8_static"

METHOD = "minmax"
"""How ranges are chosen unless a setting says otherwise: with codes of its own for each channel, clipping
lost on MiniLM whatever it did to the mean squared error of the inputs."""


@dataclass(frozen=True)
class Int8Static(Int8):
    """int8 weights per output channel, uint8 activations by the scales and zero points of the layer.

    Attributes:
        method: how the range is chosen, see `passes.solve.ranges.fitted`.
    """

    method: str = METHOD

    name: ClassVar[str] = NAME

    @property
    def setting(self) -> dict[str, Any]:
        return super().setting | ({} if self.method == METHOD else {"method": self.method})

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        codes = fitted(gram.values, weight, self.method)
        step = codes.scale.astype(np.float64)
        # a step of an input is worth its scale times the weight, which is what has a grid
        grid, scale = quantize_rows(
            weight * step, gram.xx / np.outer(step, step), mask, group=GROUP, block=self.block
        )
        parts: Parts = {"scale": scale, "x_scale": codes.scale, "x_zero": codes.zero}
        return (grid / step).astype(np.float32), parts

    def seen(self, parts: Parts) -> Seen:
        return Seen(8, tuple(parts["x_scale"].tolist()), tuple(parts["x_zero"].tolist()))

    def placeholder(self, rows: int, columns: int) -> Parts:
        inputs = {"x_scale": np.ones(columns, np.float32), "x_zero": np.zeros(columns, np.int32)}
        return super().placeholder(rows, columns) | inputs

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        if solved.scale is None or "x_scale" not in solved.parts:
            raise PassError(f"{site.name} is to be int8 with static scales and has none")
        step, zero = solved.parts["x_scale"], solved.parts["x_zero"]
        codes = codes_of(solved.weight.astype(np.float64) * step, solved.scale)
        if self.structure is None:
            packed: Parts = {"q": pack_int8(codes, block)[0]}
        else:
            values, index, _ = pack_sparse_int8(
                codes, required_mask(solved, self.block, block), block
            )
            packed = {"values": values, "index": index}
        inverse, offset = quantizer(step, zero)
        inputs = {"inverse": inverse, "offset": offset}
        return inputs | packed | {"scale": solved.scale, "shift": static_shift(codes, zero)}

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        *lead, k = (int(d) for d in x.ty.shape.values)
        n = len(solved.weight)
        inverse, offset, *packed = weights
        if self.structure is None:
            kernel = graph.kernel(static_int8(lead, k, n, to.block), "linear_int8_static")
        else:
            kept = int(packed[1].ty.shape.values[1])
            func = static_sparse_int8(lead, k, n, to.block, kept)
            kernel = graph.kernel(func, "linear_sparse_int8_static")
        codes = graph.seen(x, solved.seen, (inverse, offset))
        return relax.call_tir(kernel, [*codes, *packed], to.ty)

    def __str__(self) -> str:
        text = "int8 static" if self.density >= 1 else f"int8 static density {self.density:g}"
        return text if self.method == METHOD else f"{text} {self.method}"


@dataclass(frozen=True)
class Int8StaticConfig:
    """What is offered.

    Attributes:
        methods: ways to choose the range, each of them an offer.
        int8: the densities and the limits of int8.
    """

    methods: tuple[str, ...] = (METHOD,)
    int8: Int8Config = field(default_factory=Int8Config)


def form(setting: Mapping[str, Any], target: Target) -> Int8Static:
    """The format that a setting stands for."""
    density, method = float(setting.get("density", 1.0)), str(setting.get("method", METHOD))
    return Int8Static(density, target.block, method)


def choices(
    site: Linear, target: Target, config: Int8StaticConfig | None = None
) -> tuple[list[Int8Static], list[Refusal]]:
    """Formats offered for a site, densest first, and what is refused: where int8 is, for its reasons."""
    config = config or Int8StaticConfig()
    dynamic, refused = int8.choices(site, target, config.int8)
    offers = [Int8Static(f.density, f.block, m) for f in dynamic for m in config.methods]
    return offers, [replace(r, op=r.op.replace(int8.NAME, NAME, 1)) for r in refused]
