"""How the weight of one linear layer is stored and multiplied, and what a solver hands to a rewrite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INT8_GROUP = 4
"""Inputs that one int8 dot-product instruction consumes (VNNI, sdot): int8 formats work in groups of 4."""


@dataclass(frozen=True)
class Format:
    """Storage and arithmetic of one linear layer.

    Attributes:
        bits: 32 (float32) or 8 (int8 weights per output channel, uint8 activations per token).
        density: share of inputs kept for each block of outputs; 1.0 is dense.
        block: outputs that share one list of kept inputs, and the width of a packed weight block.
    """

    bits: int = 32
    density: float = 1.0
    block: int = 32

    @property
    def group(self) -> int:
        """Inputs that are kept or removed together."""
        return INT8_GROUP if self.bits == 8 else 1

    @property
    def is_dense(self) -> bool:
        return self.density >= 1.0

    def kept_groups(self, in_features: int) -> int:
        """Number of input groups kept per block: at least 1, at most all."""
        groups = -(-in_features // self.group)
        return max(1, min(groups, round(self.density * groups)))

    def __str__(self) -> str:
        kind = "int8" if self.bits == 8 else "fp32"
        return kind if self.is_dense else f"{kind} density {self.density:g}"


@dataclass(frozen=True)
class Solved:
    """A linear layer solved for a format, still in the dense domain.

    Attributes:
        weight: float32 [N, K], the *effective* weight: zero where removed, on the int8 grid
            (``round(weight / scale)`` within +-127) where quantised.
        bias: float32 [N] or None.
        mask: bool [ceil(N / block), ceil(K / group)], kept input groups; the same number in every row. None if dense.
        scale: float32 [N] if ``format.bits == 8``, else None.
    """

    format: Format
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None
    scale: NDArray[np.float32] | None = None
