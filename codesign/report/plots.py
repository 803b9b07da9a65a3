"""The plots as inline SVG, readable without any script."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from codesign.frontier import Baseline, Point
from codesign.report.data import ReportData
from codesign.report.markup import Html, el, number, percent, size
from codesign.report.scales import Scale, scale

_WIDTH, _HEIGHT = 860, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 18, 74, 48


def frontier_plot(data: ReportData) -> Html:
    """Quality over latency: the frontier, what it dominates, the baselines and the goals.

    Where size is an objective, the curve is the frontier of latency and quality alone, and what is
    behind it for the sake of its size stands aside.
    """
    points = [p for p in data.frontier.points if data.quality(p) is not None]
    others = [p for p in data.others if data.quality(p) is not None]
    latencies = [v for p in points for v in p.latency_interval_ms]
    latencies += [p.latency_ms for p in others] + [b.latency_ms for b in data.frontier.baselines]
    reference = data.reference_quality()
    qualities = [q for p in [*points, *others] if (q := data.quality(p)) is not None]
    qualities += [reference] if reference is not None else []
    log = bool(latencies) and max(latencies) > 3 * min(latencies)
    x = scale(latencies, _LEFT, _WIDTH - _RIGHT, log=log)
    y = scale(qualities, _HEIGHT - _BOTTOM, _TOP)
    curve = data.fastest_for_quality()
    return el(
        "svg",
        _axes(
            x,
            y,
            f"latency, {data.frontier.ms} (median)" + (", logarithmic" if log else ""),
            data.metric,
        ),
        _goals(data, x, y, reference),
        [_baseline(data, b, i, x, y) for i, b in enumerate(_by_latency(data))],
        [_dot(data, p, x(p.latency_ms), y) for p in others],
        _curve([(x(p.latency_ms), y(data.quality(p) or 0.0)) for p in curve]),
        [
            _mark(data, p, i, x(p.latency_ms), y, p in curve, [x(v) for v in p.latency_interval_ms])
            for i, p in enumerate(data.frontier.points)
            if p in points
        ],
        class_="plot",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="group",
        aria_label=f"{data.metric} over latency of {len(points)} points",
    )


def size_plot(data: ReportData) -> Html:
    """Quality over size: the same points, the curve of those best for their size, and the goal."""
    points = [p for p in data.frontier.points if data.quality(p) is not None]
    others = [p for p in data.others if data.quality(p) is not None]
    sizes = [p.size_bytes / 1e6 for p in [*points, *others]]
    log = bool(sizes) and max(sizes) > 3 * min(sizes)
    x = scale(sizes, _LEFT, _WIDTH - _RIGHT, log=log)
    qualities = [q for p in [*points, *others] if (q := data.quality(p)) is not None]
    top, bottom = 18, _HEIGHT - _BOTTOM
    y = scale(qualities, bottom, top)
    curve, most = data.best_for_size(), data.goal.get("max_size_mb")
    goal = None
    if most is not None and x.low < most < x.high:
        goal = el("line", x1=x(most), y1=top, x2=x(most), y2=bottom, class_="goal")
    name = "size of the bundle, MB" + (", logarithmic" if log else "")
    return el(
        "svg",
        _axes(x, y, name, data.metric, (_LEFT, _WIDTH - _RIGHT, top, bottom)),
        goal,
        [_dot(data, p, x(p.size_bytes / 1e6), y) for p in others],
        _curve([(x(p.size_bytes / 1e6), y(data.quality(p) or 0.0)) for p in curve]),
        [
            _mark(data, p, i, x(p.size_bytes / 1e6), y, p in curve)
            for i, p in enumerate(data.frontier.points)
            if p in points
        ],
        class_="plot",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="group",
        aria_label=f"{data.metric} over size of {len(points)} points",
    )


def prediction_plot(data: ReportData) -> Html:
    """Predicted over measured latency; on the diagonal they agree."""
    rows, ms = data.predictions, data.frontier.ms
    side, left, bottom = 360, 58, 46
    values = [v for p in rows for v in (p.predicted_ms, p.measured_ms)]
    log = bool(values) and max(values) > 3 * min(values)
    x = scale(values, left, side - 12, log=log)
    y = scale(values, side - bottom, 12, log=log)
    marks = [
        el(
            "circle",
            el("title", f"{p.name}: predicted {p.predicted_ms:.3f} {ms}, "
               f"measured {p.measured_ms:.3f} {ms}, round {p.round}"),
            cx=x(p.measured_ms), cy=y(p.predicted_ms), r=4.5, class_="predicted",
        )
        for p in rows
    ]  # fmt: skip
    diagonal = el("line", x1=x(x.low), y1=y(y.low), x2=x(x.high), y2=y(y.high), class_="diagonal")
    return el(
        "svg",
        _axes(
            x,
            y,
            f"measured, {data.frontier.ms}",
            f"predicted, {data.frontier.ms}",
            (left, side - 12, 12, side - bottom),
            4,
        ),
        diagonal,
        marks,
        class_="plot small",
        viewBox=f"0 0 {side} {side}",
        role="img",
        aria_label=f"predicted over measured latency of {len(rows)} candidates",
    )


def _axes(
    x: Scale,
    y: Scale,
    x_name: str,
    y_name: str,
    box: tuple[float, float, float, float] = (_LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM),
    about: int = 7,
) -> list[Html]:
    left, right, top, bottom = box
    parts = []
    for value in x.ticks(about):
        parts += [
            el("line", x1=x(value), y1=top, x2=x(value), y2=bottom, class_="grid"),
            el("text", f"{value:g}", x=x(value), y=bottom + 17, text_anchor="middle"),
        ]
    for value in y.ticks(about - 1):
        parts += [
            el("line", x1=left, y1=y(value), x2=right, y2=y(value), class_="grid"),
            el("text", f"{value:g}", x=left - 8, y=y(value) + 4, text_anchor="end"),
        ]
    middle = (top + bottom) / 2
    parts += [
        el("text", x_name, x=(left + right) / 2, y=bottom + 37, text_anchor="middle",
           class_="name"),
        el("text", y_name, x=16, y=middle, text_anchor="middle", class_="name",
           transform=f"rotate(-90 16 {middle:g})"),
    ]  # fmt: skip
    return parts


def _goals(data: ReportData, x: Scale, y: Scale, reference: float | None) -> list[Html]:
    """Lines at the goals that lie inside the plot."""
    parts = []
    loss, least = data.goal.get("max_loss"), data.goal.get("min_quality")
    for level, name in (
        (reference * (1 - loss) if reference and loss is not None else None,
         f"at most {percent(loss)} loss"),
        (least, f"at least {least}"),
    ):  # fmt: skip
        if level is not None and y.low < level < y.high:
            parts += [
                el("line", x1=_LEFT, y1=y(level), x2=_WIDTH - _RIGHT, y2=y(level), class_="goal"),
                el("text", name, x=_LEFT + 6, y=y(level) - 6,
                   class_="goal-name"),
            ]  # fmt: skip
    latency = data.goal.get("max_latency_ms")
    if latency is not None and x.low < latency < x.high:
        parts.append(
            el("line", x1=x(latency), y1=_TOP, x2=x(latency), y2=_HEIGHT - _BOTTOM, class_="goal")
        )
    return parts


def _by_latency(data: ReportData) -> list[Baseline]:
    return sorted(data.frontier.baselines, key=lambda b: b.latency_ms)


def _baseline(data: ReportData, baseline: Baseline, row: int, x: Scale, y: Scale) -> Html:
    """A vertical line, its name above in one of four rows, and a mark at its quality if known."""
    at, height = x(baseline.latency_ms), 18 + 15 * (row % 4)
    late = at > _WIDTH * 0.75
    metric = data.metric
    quality = baseline.quality.get(metric)
    name = f"{baseline.name} {number(baseline.latency_ms)} {data.frontier.ms}"
    mark = None
    if quality is not None and y.low <= quality <= y.high:
        d = f"M{at:.1f} {y(quality) - 6:.1f}l6 6l-6 6l-6 -6z"
        mark = el("path", el("title", f"{name}, {metric} {number(quality, 4)}"), d=d)
    return el(
        "g",
        el("line", x1=at, y1=height + 3, x2=at, y2=_HEIGHT - _BOTTOM),
        el("text", name, x=at - 5 if late else at + 5, y=height + 4,
           text_anchor="end" if late else "start"),
        mark,
        class_="baseline",
    )  # fmt: skip


def _dot(data: ReportData, point: Point, at: float, y: Scale) -> Html:
    """A dominated candidate."""
    quality = data.quality(point) or 0.0
    return el(
        "circle",
        el("title", f"{point.name}, dominated: {number(point.latency_ms)} {data.frontier.ms}, "
           f"{data.metric} {number(quality, 4)}"),
        cx=at, cy=y(quality), r=3.5, class_="other",
    )  # fmt: skip


def _curve(places: Sequence[tuple[float, float]]) -> Html | None:
    """Steps: up to a point's latency the quality of the faster one is the best to be had."""
    if len(places) < 2:
        return None
    d = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    d += "".join(f"H{b[0]:.1f}V{b[1]:.1f}" for _, b in pairwise(places))
    return el("path", d=d, class_="front")


def _mark(
    data: ReportData,
    point: Point,
    index: int,
    at: float,
    y: Scale,
    on_curve: bool,
    interval: Sequence[float] = (),
) -> Html:
    """A point of the frontier with its interval; focus, hover and click are the script's."""
    quality = data.quality(point) or 0.0
    height, loss = y(quality), data.loss(point)
    lines = [
        f"{point.name}: {data.labels.get(point.name, '')}".rstrip(": "),
        f"{number(point.latency_ms)} {data.frontier.ms} ({number(point.latency_interval_ms[0])} to "
        f"{number(point.latency_interval_ms[1])})",
        f"{data.metric} {number(quality, 4)}" + (f", loss {percent(loss)}" if loss is not None
                                                  else ""),
        *([size(point.size_bytes)] if data.frontier.sized else []),
    ]  # fmt: skip
    bar = None
    if interval:
        low, high = interval
        bar = el("line", x1=low, y1=height, x2=high, y2=height, class_="interval")
    return el(
        "g",
        bar,
        el("circle", cx=at, cy=height, r=13, class_="reach"),
        el("circle", cx=at, cy=height, r=6, class_="dot"),
        el("text", point.name, x=at + 8, y=height + 17),
        class_="point" if on_curve else "point aside",
        tabindex=0,
        role="button",
        data_point=index,
        data_tip="\n".join(lines),
        aria_label=", ".join(lines),
        aria_pressed="false",
    )
