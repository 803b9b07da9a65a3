"""The structure of sparse int8 convolutions: channels stay or go by fours, at each position by itself.

Four channels at one position of the kernel are what one instruction multiplies. So four channels share a
pattern, each block of outputs has its own patterns, and groups of channels may be missing altogether.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from passes.errors import PassError
from passes.formats import Balanced, Pruned
from passes.solve.obs import prune_inputs
from passes.solve.patterns import natural_entries, natural_patterns, prune_patterns
from targets.kernels.linear_int8 import GROUP


@dataclass(frozen=True)
class ChannelGroups:
    """Every block of outputs keeps equally many groups of four channels at a position.

    Its masks are bool [ceil(O / block), C / 4 * taps], position by position for each four channels.

    Attributes:
        keep: share of the groups kept; at least one is, at most all.
        taps: positions of the kernel.
        block: outputs that share one list.
    """

    keep: float
    taps: int
    block: int
    group: int = GROUP

    def kept(self, columns: int) -> int:
        """Groups kept in each block of a weight of ``columns`` inputs."""
        groups = columns // self.group
        return max(1, min(groups, round(self.keep * groups)))

    def empty(self, rows: int, columns: int) -> NDArray[np.bool_]:
        mask = np.zeros((-(-rows // self.block), columns // self.group), np.bool_)
        mask[:, : self.kept(columns)] = True
        return mask

    def prune(self, weight: NDArray[np.float64], gram: NDArray[np.float64]) -> Pruned:
        order = by_groups(weight.shape[1], self.taps)
        kept = self.kept(weight.shape[1])
        grouped = np.ascontiguousarray(weight[:, order])
        solved, mask = prune_inputs(
            grouped, gram[np.ix_(order, order)], kept, self.group, self.block
        )
        out = np.empty_like(solved)
        out[:, order] = solved
        return out, mask


@dataclass(frozen=True)
class PatternGroups:
    """Every block of outputs keeps equally many groups of four channels, each in one of a few patterns.

    Its masks are those of `ChannelGroups`, of which it is a case: the patterns of `passes.pattern` with four
    channels in place of one.

    Attributes:
        kernel: rows and columns of a kernel.
        keep: share of the groups of channels kept.
        block: outputs that share groups and patterns.
        count: patterns to choose from.
    """

    kernel: tuple[int, int]
    keep: float
    block: int
    count: int = 8
    group: int = GROUP

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def channels(self, columns: int) -> int:
        """Groups of channels kept, of a weight of ``columns`` inputs."""
        groups = columns // (self.group * self.taps)
        return max(1, min(groups, round(self.keep * groups)))

    def kept(self, columns: int) -> int:
        """Groups of inputs kept in each block: four channels at a position are one."""
        return self.channels(columns) * natural_entries(self.kernel)

    def empty(self, rows: int, columns: int) -> NDArray[np.bool_]:
        mask = np.zeros((-(-rows // self.block), columns // self.group), np.bool_)
        mask[:, : self.kept(columns)] = True
        return mask

    def prune(self, weight: NDArray[np.float64], gram: NDArray[np.float64]) -> Pruned:
        columns = weight.shape[1]
        by_groups(columns, self.taps)  # raises if channels are no whole groups
        patterns = natural_patterns(weight, gram, self.kernel, self.count, block=self.block)
        # four channels in a row are one kernel with four times the entries
        wide = np.tile(patterns, (1, self.group))
        solved, mask = prune_patterns(weight, gram, wide, self.channels(columns), self.block)
        first = mask.reshape(len(mask), -1, self.group, self.taps)[:, :, 0]
        return solved, np.ascontiguousarray(first.reshape(len(mask), -1))


Grouped: TypeAlias = Balanced | ChannelGroups | PatternGroups
"""The structures of sparse int8 layers."""


def by_groups(columns: int, taps: int) -> NDArray[np.intp]:
    """The inputs [C * taps] of a convolution in an order in which the members of a group are neighbours.

    Raises:
        PassError: channels that are no multiple of four.
    """
    channels = columns // taps
    if channels % GROUP and taps > 1:
        raise PassError(
            "channels that are no whole groups", got=str(channels), allowed=f"a multiple of {GROUP}"
        )
    if taps == 1:
        return np.arange(columns)
    order = np.arange(columns).reshape(-1, GROUP, taps).transpose(0, 2, 1)
    return order.reshape(-1)
