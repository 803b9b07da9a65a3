"""Latency against width: where it jumps, and which widths are worth having. No TVM, no measuring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

GAIN = 0.01
"""Share of the time that a narrower layer must save to be worth having."""


@dataclass(frozen=True)
class Point:
    """One width measured.

    Attributes:
        seconds, lo, hi: median and its interval.
        ratio: time over that of a reference kernel run beside it, by which points are compared.
    """

    width: int
    seconds: float
    lo: float
    hi: float
    ratio: float

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval of the ratio, as wide as that of the time."""
        return self.ratio * self.lo / self.seconds, self.ratio * self.hi / self.seconds

    def faster_than(self, other: Point, gain: float = GAIN) -> bool:
        """True if the intervals are apart and at least this share is saved."""
        apart = self.bounds[1] < other.bounds[0]
        return apart and self.ratio <= (1 - gain) * other.ratio


def edges(points: Iterable[Point]) -> list[int]:
    """Widths, ascending, of which the next wider one measured is slower."""
    ordered = sorted(points, key=lambda p: p.width)
    return [a.width for a, b in pairwise(ordered) if a.faster_than(b)]


def worth_having(points: Iterable[Point]) -> list[int]:
    """Widths, widest first: the widest measured, then each widest one that is faster than the last.

    Between two of them a layer would lose channels and no time.
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda p: -p.width):
        if not found or point.faster_than(found[-1]):
            found.append(point)
    return [p.width for p in found]


def around_edges(full: int, block: int, near: int, first: int) -> list[int]:
    """Widths to measure from ``first`` to ``full``: every multiple of a block, and ``near`` beside it."""
    marks = {full, first}
    for edge in range(block, full + block, block):
        marks |= {edge - near, edge, edge + near}
    return sorted(w for w in marks if first <= w <= full)


def evenly(full: int, step: int, first: int) -> list[int]:
    """Every ``step``-th width down from ``full``, to ``first``."""
    return sorted({*range(full, first - 1, -step)})


def summary(points: Sequence[Point]) -> str:
    """One line for people: how far the edges are apart."""
    found = edges(points)
    gaps = {b - a for a, b in pairwise(found)}
    if not gaps:
        return f"one step, after {found[0]}" if found else "no steps"
    return (
        f"steps every {gaps.pop()}" if len(gaps) == 1 else f"steps {min(gaps)} to {max(gaps)} apart"
    )
