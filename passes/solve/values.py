"""What values the inputs of a layer take: the extremes of each input, and a sample of rows.

A range of codes is chosen by them: second moments say nothing about the tails.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LIMIT = 1 << 17
"""Values in a sample, unless a single row has more."""


class Values:
    """Extremes and a sample of the rows that were added.

    The sample is bounded and depends on nothing but the rows and their order: each row's rank is a
    hash of its number, and the rows of the lowest ranks stay (bottom-k sampling, Cohen and Kaplan
    2007). Taking every n-th row instead would hit the same positions of all texts.

    Attributes:
        low, high: float32 [K], the smallest and the largest value of each input, or zero.
        rows: float32 [R, K], the sample.
    """

    def __init__(self, features: int) -> None:
        self.low = np.zeros(features, np.float32)
        self.high = np.zeros(features, np.float32)
        self.rows = np.zeros((0, features), np.float32)
        self._rank = np.zeros(0, np.uint64)
        self._count = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take account of rows [T, K]."""
        if not len(rows):
            return
        np.minimum(self.low, rows.min(axis=0), out=self.low)
        np.maximum(self.high, rows.max(axis=0), out=self.high)
        rank = _hash(np.arange(self._count, self._count + len(rows), dtype=np.uint64))
        self._count += len(rows)
        self._keep(rows, rank)

    def of(self, kept: NDArray[np.intp]) -> Values:
        """Those of the inputs ``kept`` alone, in that order."""
        out = Values(len(kept))
        out.low, out.high, out.rows = self.low[kept], self.high[kept], self.rows[:, kept]
        out._rank, out._count = self._rank, self._count
        return out

    def _keep(self, rows: NDArray[np.float32], rank: NDArray[np.uint64]) -> None:
        """Put rows into the sample, and those of the highest ranks out of it."""
        most = max(1, LIMIT // len(self.low))
        if len(self._rank) == most:
            low = np.flatnonzero(rank < self._rank[-1])
            rows, rank = rows[low], rank[low]
        together = np.concatenate([self._rank, rank])
        best = np.argsort(together, kind="stable")[:most]
        self.rows = np.concatenate([self.rows, rows])[best]
        self._rank = together[best]


def merged(parts: Sequence[Values]) -> Values:
    """Those of the rows of all ``parts``."""
    total = Values(len(parts[0].low))
    for part in parts:
        np.minimum(total.low, part.low, out=total.low)
        np.maximum(total.high, part.high, out=total.high)
        total._count += part._count
        total._keep(part.rows, part._rank)
    return total


def _hash(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A mixture of bits in which neighbours have nothing in common (SplitMix64, Steele et al. 2014)."""
    x = (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
