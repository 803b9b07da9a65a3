"""bfloat16: weights and activations rounded to 8 bits of significand, sums in float32.

Nothing is calibrated and little is lost: it is for layers that int8 harms, on CPUs that multiply such
numbers faster than float32 (AMX, AVX512_BF16). Measurement says whether this one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from passes.formats import BFLOAT16, Seen
from passes.half import Half, HalfConfig, offered
from passes.report import Refusal
from targets.kernels.conv_bf16 import conv_bf16, pack_conv_bf16
from targets.kernels.linear_bf16 import GROUP, bf16_bits, bf16_values, dense_bf16, pack_bf16

if TYPE_CHECKING:
    from passes.sites import Linear
    from targets.kernels.window import Window
    from targets.target import Target

NAME = "bf16"


@dataclass(frozen=True)
class Bf16(Half):
    """A dense layer in bfloat16."""

    name: ClassVar[str] = NAME
    inputs: ClassVar[Seen] = BFLOAT16

    def rounded(self, weight: NDArray[np.floating]) -> NDArray[np.float32]:
        return bf16_values(bf16_bits(weight.astype(np.float32, copy=False)))

    def filled(self, channels: int) -> int:
        return -(-channels // GROUP) * GROUP

    def pack_linear(self, weight: NDArray[np.float32], block: int) -> NDArray[np.generic]:
        return pack_bf16(weight, block)

    def pack_conv(
        self, weight: NDArray[np.float32], window: Window, block: int
    ) -> NDArray[np.generic]:
        return pack_conv_bf16(weight, window, block)

    def linear(self, lead: Sequence[int], k: int, n: int, block: int) -> tirx.PrimFunc:
        return dense_bf16(lead, k, n, block)

    def conv(self, batch: int, window: Window, n: int, block: int, strip: int) -> tirx.PrimFunc:
        return conv_bf16(batch, window, n, block, strip)


@dataclass(frozen=True)
class Bf16Config(HalfConfig):
    """What is offered; see `passes.half.HalfConfig`."""


def form(setting: Mapping[str, Any], target: Target) -> Bf16:
    """The format that a setting stands for."""
    return Bf16()


def choices(
    site: Linear, target: Target, config: Bf16Config | None = None
) -> tuple[list[Bf16], list[Refusal]]:
    """bfloat16 for a site, or why not."""
    return offered(Bf16(), site, lacks_bf16(target), config or Bf16Config())


def lacks_bf16(target: Target) -> str | None:
    """What a target lacks for bfloat16 products; None if nothing."""
    if target.has_bf16 or target.has_tiles:
        return None
    return f"{target.name} has no instruction for bfloat16 products (AVX512_BF16, AMX)"
