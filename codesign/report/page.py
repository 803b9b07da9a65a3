"""The report as one HTML file that loads nothing."""

from __future__ import annotations

from importlib.resources import files

from codesign.frontier import Baseline
from codesign.latency import Agreement, agreement
from codesign.report import plots, tables
from codesign.report.data import ReportData
from codesign.report.grid import choice_grid
from codesign.report.markup import DASH, TIMES, TO, Content, Html, el, number, percent, size

# a second lock beside having no address in the page: the browser may load nothing
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def render(data: ReportData) -> str:
    """The whole page."""
    title = f"{data.frontier.model} on {data.frontier.target}"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", f"{title}{TO}codesign"),
        el("style", _asset("report.css")),
    )
    body = el(
        "body",
        el("header", _header(data, title)),
        el("main", [part for part in _sections(data) if part]),
        el("div", id="tip", role="tooltip", hidden=True),
        el("script", _asset("report.js")),
    )
    return "<!doctype html>\n" + el("html", head, body, lang="en") + "\n"


def _asset(name: str) -> Html:
    return Html(files("codesign.report").joinpath(name).read_text(encoding="utf-8"))


def _header(data: ReportData, title: str) -> list[Html | None]:
    frontier = data.frontier
    spent = f", {data.minutes:.1f} minutes" if data.minutes is not None else ""
    device = data.device.get("name") or data.device.get("cpu") or ""
    threads = f"{frontier.threads} thread{'s' if frontier.threads != 1 else ''}"
    line = " · ".join(str(part) for part in (device, threads, data.created + spent) if part)
    return [
        el("p", "codesign", class_="brand"),
        el("h1", title),
        el("p", line, class_="muted"),
        el("p", _EMULATED, class_="warning") if frontier.emulated else None,
        el("div", _cards(data), class_="cards"),
    ]


def _cards(data: ReportData) -> list[Html]:
    """The run in a few numbers."""
    points, seen = data.frontier.points, _agreement(data)
    cards = [_card(f"{len(points)}", "points on the frontier", f"{len(data.others)} dominated")]
    goal = data.goal.get("max_loss")
    allowed = 0.01 if goal is None else float(goal)
    for baseline in _to_beat(data):
        within = [p for p in points if (loss := data.loss(p)) is not None and loss <= allowed]
        if within:
            fastest = min(within, key=lambda p: p.latency_ms)
            cards.append(
                _card(
                    f"{baseline.latency_ms / fastest.latency_ms:.2f}{TIMES}",
                    f"faster than {baseline.name}",
                    f"{fastest.name}, at most {percent(allowed)} loss of {data.metric}",
                )
            )
    if seen.median_error is not None:
        tau = f"Kendall tau {seen.tau:.2f}" if seen.tau is not None else ""
        cards.append(
            _card(percent(seen.median_error), "median error of predicted latency",
                  ", ".join(t for t in (f"{seen.count} candidates", tau) if t))
        )  # fmt: skip
    made, reused = sum(data.records.made.values()), sum(data.records.reused.values())
    if made or reused:
        cards.append(_card(f"{made:,}", "records made", f"{reused:,} reused"))
    return cards


def _to_beat(data: ReportData) -> list[Baseline]:
    """The reference and the first two other baselines, in the order given."""
    own = [b for b in data.frontier.baselines if b.name == data.reference]
    rest = [b for b in data.frontier.baselines if b.name != data.reference]
    return own[:1] + rest[:2]


def _card(value: str, name: str, detail: str) -> Html:
    return el("div", el("b", value), el("span", name), el("small", detail), class_="card")


def _sections(data: ReportData) -> list[Html | None]:
    return [
        _section("Frontier", None, _notes(data), _explorer(data)),
        _section("Results", _RESULTS, tables.result_table(data)),
        _section("What measuring changed", _CHANGED, tables.change_table(data))
        if data.changes
        else None,
        _section("Predicted against measured", _PREDICTED, _predictions(data))
        if data.predictions
        else None,
        _section("Kernels", _KERNELS, tables.kernel_tables(data)) if data.kernels else None,
        _section("Fusion", _FUSION, tables.fusion_table(data)) if data.fusions else None,
        _section("Vetoed by measurement", _VETOED, tables.veto_table(data))
        if data.vetoes
        else None,
        _section("Refused", _REFUSED, tables.refusal_table(data)) if data.refusals else None,
        _section("What was on offer", _OFFER, _folded("all options", tables.option_table(data)))
        if data.options
        else None,
        _section("Records", _RECORDS, _records(data)),
        _section("How it was measured", None, _protocol(data)),
    ]


def _section(title: str, lead: str | None, *content: Content) -> Html:
    return el("section", el("h2", title), el("p", lead, class_="lead") if lead else None, content)


def _notes(data: ReportData) -> Html | None:
    return el("ul", [el("li", n) for n in data.notes], class_="notes") if data.notes else None


def _explorer(data: ReportData) -> Html:
    """The plot and, beside it, the selected point."""
    everything = [c.pass_name for p in data.frontier.points for c in p.choices]
    passes = sorted(dict.fromkeys(everything))
    details = []
    for i, p in enumerate(data.frontier.points):
        low, high = p.latency_interval_ms
        quality = ", ".join(f"{name} {number(value, 4)}" for name, value in p.quality.items())
        rows = {
            "latency": f"{number(p.latency_ms)} {data.frontier.ms} ({number(low)} to {number(high)})",
            "predicted": f"{number(p.predicted_ms)} {data.frontier.ms}",
            "quality": quality,
            "loss": percent(data.loss(p)),
            "size": size(p.size_bytes),
            "bundle": p.bundle,
        }
        details.append(
            el("article", el("h3", p.name, " ", el("small", data.labels.get(p.name, ""))),
               tables.facts(rows), choice_grid(p.choices, passes), data_detail=i)
        )  # fmt: skip
    figure = el("figure", plots.frontier_plot(data), el("figcaption", _LEGEND))
    if data.frontier.sized:
        second = el("figure", plots.size_plot(data), el("figcaption", _SIZE_LEGEND))
        figure = el("div", figure, second)
    return el(
        "div",
        figure,
        el("div", details, class_="details", aria_live="polite"),
        class_="explorer",
    )


def _agreement(data: ReportData) -> Agreement:
    rows = data.predictions
    return agreement([p.predicted_ms for p in rows], [p.measured_ms for p in rows])


def _size_agreement(data: ReportData) -> Agreement:
    rows = [(p.predicted_bytes, p.measured_bytes) for p in data.predictions]
    known = [(p, m) for p, m in rows if p is not None and m is not None]
    return agreement([p for p, _ in known], [m for _, m in known])


def _predictions(data: ReportData) -> Html:
    seen, calibration = _agreement(data), data.calibration
    rows = {
        "candidates": seen.count,
        "median error": percent(seen.median_error),
        "largest error": percent(seen.worst_error),
        "Kendall tau": f"{seen.tau:.3f}" if seen.tau is not None else DASH,
        "calibration": f"{calibration.scale:.4f} {TIMES} kernels + "
        f"{calibration.per_kernel * 1e6:.2f} µs per call, from {calibration.runs} runs",
    }
    sizes = _size_agreement(data)
    if sizes.count:
        rows["median error of size"] = percent(sizes.median_error)
        rows["largest error of size"] = percent(sizes.worst_error)
    return el(
        "div",
        el("figure", plots.prediction_plot(data)),
        el("div", tables.facts(rows), _folded("every residual", tables.residual_table(data))),
        class_="beside",
    )


def _records(data: ReportData) -> Html:
    counts = data.records
    kinds = list(dict.fromkeys([*counts.made, *counts.reused, *counts.again]))
    columns = (counts.made, counts.reused, counts.again)
    return tables.table(
        ["kind", "made", "reused", "made again"],
        [[kind, *(c.get(kind, 0) for c in columns)] for kind in kinds],
        numbers=3,
    )


def _protocol(data: ReportData) -> Html:
    blocks = (
        ("protocol", data.frontier.protocol),
        ("device", data.device),
        ("versions", data.versions),
        ("goal and budget", data.goal),
    )
    return el(
        "div",
        [el("div", el("h3", name), tables.facts(values)) for name, values in blocks if values],
        class_="columns",
    )


def _folded(name: str, content: Html) -> Html:
    return el("details", el("summary", name), content)


_EMULATED = (
    "Emulated: every time on this page is an emulator's, or a processor's that ran the code of a GPU. They show "
    "that the whole way works, and say nothing about the speed of any device."
)
_LEGEND = (
    "Each filled point was built, measured end to end and evaluated; its bar is the interval of "
    "the median. Hollow points are dominated. Dashed lines are baselines of the same run. Select "
    "a point to see what was done to each layer."
)
_SIZE_LEGEND = (
    "The same points by the size of their bundle. On the curves are the points that are best in "
    "two of the three objectives, latency and quality above, size and quality here; the others are "
    "on the frontier for the third."
)
_RESULTS = (
    "Medians of end-to-end runs with their intervals, and the speed-up over each baseline of the "
    "same run."
)
_CHANGED = (
    "After each round the tables were corrected by what was measured, and the search decided "
    "again. These choices came out differently at the same latency."
)
_PREDICTED = (
    "Each prediction was made from kernel records before the candidate was built. Residuals are "
    "predicted over measured, less one."
)
_KERNELS = "The fused kernels that a candidate runs, measured one by one; share is of kernel time."
_FUSION = (
    "Operators in a row become the kernels that measured fastest, calls included: fused as relax "
    "does, with what follows a product apart, or as one pass over rows."
)
_VETOED = "Offered, measured, and no faster than something that loses no more quality."
_REFUSED = "Not offered by the pass, with its reason."
_OFFER = "Measured latency and measured output error of each option; struck out is vetoed."
_RECORDS = (
    "Made by this run, or taken from earlier ones. Made again counts measurements whose key had "
    "been measured before."
)
