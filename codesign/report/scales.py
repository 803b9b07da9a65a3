"""Axes: from values to positions, and where the ticks stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on positions from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, x = self.low, self.high, value
        if self.log:
            low, high, x = math.log(low), math.log(high), math.log(value)
        return self.start + (x - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 6) -> list[float]:
        """Round values inside the scale."""
        if self.log:
            marks = [m * 10.0**k for k in range(-9, 10) for m in (1, 2, 3, 5, 7)]
            inside = [m for m in marks if self.low <= m <= self.high]
            if 3 <= len(inside) <= 2 * about:
                return inside
        return _linear_ticks(self.low, self.high, about)


def scale(
    values: Sequence[float], start: float, end: float, log: bool = False, margin: float = 0.06
) -> Scale:
    """A scale that holds all values and a margin on both sides; without values 0 to 1."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log and low > 0:
        gap = max((high / low) ** margin, 1.02)
        return Scale(low / gap, high * gap, start, end, log=True)
    gap = (high - low) * margin or abs(high) * 0.05 or 1.0
    return Scale(low - gap, high + gap, start, end)


def _linear_ticks(low: float, high: float, about: int) -> list[float]:
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]
