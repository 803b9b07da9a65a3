"""float16: weights and activations rounded to 11 bits of significand, short sums in float16.

For targets that compute in it (AVX512_FP16, and AArch64 from Armv8.2 on), where it does twice the products
of float32 at once. Eight times as precise as bfloat16, and good for numbers up to 65504 alone: layers whose
weights exceed that, or whose inputs or sums of products may come near on calibration data, stay float32.

The simulator sees weights and inputs rounded as the kernels do, but not the rounding of short sums, which
moves outputs by a thousandth of their root mean square (`targets.kernels.linear_fp16`): errors of this format
are told too small until candidates that have it are built and measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from passes.errors import PassError
from passes.formats import FLOAT16, Parts, Seen
from passes.half import Half, HalfConfig, offered
from passes.report import Refusal
from targets.kernels.conv_fp16 import conv_fp16, pack_conv_fp16
from targets.kernels.linear_fp16 import (
    CHUNK,
    LARGEST,
    dense_fp16,
    filled,
    fp16_values,
    pack_fp16,
)

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from passes.solve.values import Values
    from targets.kernels.window import Window
    from targets.target import Target

NAME = "fp16"

ROOM = 2
"""It is offered where inputs and sums stay below the largest float16 by this factor on calibration data: other
data, and layers compressed before this one, may make them larger."""


@dataclass(frozen=True)
class Fp16(Half):
    """A dense layer in float16; see `targets.kernels.linear_fp16` for how exact its sums are."""

    name: ClassVar[str] = NAME
    inputs: ClassVar[Seen] = FLOAT16

    def unfit(self, weight: NDArray[np.floating], values: Values) -> str | None:
        return beyond(weight, values, LARGEST / ROOM)

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        if (reason := beyond(weight, gram.values, LARGEST)) is not None:
            raise PassError("a layer does not fit fp16", got=reason, next="leave it in float32")
        return super().represent(weight, mask, gram)

    def rounded(self, weight: NDArray[np.floating]) -> NDArray[np.float32]:
        return fp16_values(weight)

    def filled(self, channels: int) -> int:
        return filled(channels)

    def pack_linear(self, weight: NDArray[np.float32], block: int) -> NDArray[np.generic]:
        return pack_fp16(weight, block)

    def pack_conv(
        self, weight: NDArray[np.float32], window: Window, block: int
    ) -> NDArray[np.generic]:
        return pack_conv_fp16(weight, window, block)

    def linear(self, lead: Sequence[int], k: int, n: int, block: int) -> tirx.PrimFunc:
        return dense_fp16(lead, k, n, block)

    def conv(self, batch: int, window: Window, n: int, block: int, strip: int) -> tirx.PrimFunc:
        return conv_fp16(batch, window, n, block, strip)


@dataclass(frozen=True)
class Fp16Config(HalfConfig):
    """What is offered; see `passes.half.HalfConfig`."""


def form(setting: Mapping[str, Any], target: Target) -> Fp16:
    """The format that a setting stands for."""
    return Fp16()


def choices(
    site: Linear, target: Target, config: Fp16Config | None = None
) -> tuple[list[Fp16], list[Refusal]]:
    """float16 for a site, or why not."""
    return offered(Fp16(), site, lacks_fp16(target), config or Fp16Config())


def lacks_fp16(target: Target) -> str | None:
    """What a target lacks for float16 products; None if nothing."""
    if target.has_fp16:
        return None
    return f"{target.name} does not compute in float16 (AVX512_FP16, FEAT_FP16 of AArch64)"


def beyond(weight: NDArray[np.floating], values: Values, limit: float) -> str | None:
    """Why the numbers of a layer do not fit: weights that no float16 can be, inputs or short sums above a limit."""
    if reason := too_large(weight):
        return reason
    end = f"more than {limit:.0f}; float16 ends at {LARGEST:.0f}"
    size = np.maximum(values.high, -values.low)
    if size.max(initial=0) > limit:
        return f"inputs reach {size.max():.3g}, {end}"
    terms = np.abs(weight) * size
    if terms.shape[1] > CHUNK:  # in whatever order a kernel adds them
        terms = np.partition(terms, -CHUNK, axis=1)[:, -CHUNK:]
    most = float(terms.sum(axis=1).max(initial=0))
    return f"sums of {CHUNK} products may reach {most:.3g}, {end}" if most > limit else None


def too_large(weight: NDArray[np.floating]) -> str | None:
    """Why a weight cannot be float16, whatever its inputs are; None if it can."""
    largest = float(np.abs(weight).max(initial=0))
    if largest <= LARGEST:
        return None
    return f"weights reach {largest:.3g}, float16 ends at {LARGEST:.0f}"
