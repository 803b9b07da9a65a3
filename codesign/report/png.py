"""The frontier as a PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from codesign.errors import UserError
from codesign.report.data import ReportData


def plot(data: ReportData, path: str | Path) -> Path:
    """Draw frontier.png: quality over latency, with intervals and baselines.

    Raises:
        UserError: the file cannot be written.
    """
    figure, axes = canvas()
    _draw(axes, data)
    return write_png(figure, path)


def canvas() -> tuple[Any, Any]:
    """A figure that needs no display, and its one pair of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.8), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def write_png(figure: Any, path: str | Path) -> Path:
    """Write a figure to a file.

    Raises:
        UserError: the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise UserError(
            f"cannot write {path.name}",
            got=f"{path}: {error.strerror or error}",
            allowed="a folder that can be written, on a disk with free space",
        ) from error
    return path


def _draw(axes: Any, data: ReportData) -> None:
    points = [(p, q) for p in data.frontier.points if (q := data.quality(p)) is not None]
    others = [(p.latency_ms, q) for p in data.others if (q := data.quality(p)) is not None]
    if others:
        axes.plot(*zip(*others, strict=True), "o", mfc="none", mec="0.6", ms=5, label="dominated")
    if points:
        x = [p.latency_ms for p, _ in points]
        y = [q for _, q in points]
        ends = [
            [p.latency_ms - p.latency_interval_ms[0] for p, _ in points],
            [p.latency_interval_ms[1] - p.latency_ms for p, _ in points],
        ]
        curve = [(p.latency_ms, data.quality(p)) for p in data.fastest_for_quality()]
        axes.step(*zip(*curve, strict=True), where="post", color="#2563eb", lw=1.4)
        axes.errorbar(x, y, xerr=ends, fmt="o", color="#2563eb", ms=6, label="frontier")
        if data.frontier.sized:
            _colour_by_size(axes, x, y, [p.size_bytes / 1e6 for p, _ in points])
        for p, q in points:
            axes.annotate(p.name, (p.latency_ms, q), (4, -11), textcoords="offset points",
                          fontsize=7, color="0.35")  # fmt: skip
    colors = ("#b45309", "#0f766e", "#7c3aed", "#be123c", "#4d7c0f")
    for i, baseline in enumerate(data.frontier.baselines):
        color = colors[i % len(colors)]
        label = f"{baseline.name}, {baseline.latency_ms:.2f} {data.frontier.ms}"
        axes.axvline(baseline.latency_ms, ls="--", lw=1.1, color=color, label=label)
        quality = baseline.quality.get(data.metric)
        if quality is not None:
            axes.plot([baseline.latency_ms], [quality], "D", color=color, ms=6)
    latencies = [p.latency_ms for p, _ in points] + [b.latency_ms for b in data.frontier.baselines]
    if latencies and max(latencies) > 3 * min(latencies):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    frontier = data.frontier
    axes.set_xlabel(f"latency, {data.frontier.ms} (median; bars: interval of the median)")
    axes.set_ylabel(data.metric)
    axes.set_title(f"{frontier.model} on {frontier.target}, {frontier.threads} thread(s)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")


def _colour_by_size(axes: Any, x: list[float], y: list[float], megabytes: list[float]) -> None:
    """The points again, each in the colour of its bundle's size."""
    shades = axes.scatter(x, y, c=megabytes, cmap="viridis", s=58, zorder=3)
    axes.figure.colorbar(shades, ax=axes, label="size of the bundle, MB", pad=0.01)
