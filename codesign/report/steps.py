"""Latency against width as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codesign.report.png import canvas, write_png
from codesign.staircase import Point, worth_having


def plot(points: Sequence[Point], title: str, path: str | Path) -> Path:
    """Draw the measured widths with their intervals, and mark those worth having.

    Raises:
        UserError: the file cannot be written.
    """
    figure, axes = canvas()
    x, y = [p.width for p in points], [p.seconds * 1e6 for p in points]
    spread = [
        [(p.seconds - p.lo) * 1e6 for p in points],
        [(p.hi - p.seconds) * 1e6 for p in points],
    ]
    axes.errorbar(
        x, y, yerr=spread, fmt=".-", color="0.55", ms=4, lw=0.8, label="measured (median, interval)"
    )
    kept = set(worth_having(points))
    marked = [(p.width, p.seconds * 1e6) for p in points if p.width in kept]
    axes.plot(*zip(*marked, strict=True), "o", color="#2563eb", ms=6, label="worth having")
    axes.set_xlabel("width, channels")
    axes.set_ylabel("latency, us")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="upper left")
    return write_png(figure, path)
