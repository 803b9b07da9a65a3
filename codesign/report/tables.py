"""The tables of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from codesign.frontier import Baseline, Point
from codesign.report.data import KernelRow, ReportData
from codesign.report.grid import natural
from codesign.report.markup import DASH, TIMES, TO, Content, Html, el, number, percent, size

R = TypeVar("R")
_MOST_BASELINES = 4


def table(head: Sequence[str], rows: Sequence[Sequence[Content]], numbers: int = 0) -> Html:
    """A table; the last ``numbers`` columns are numeric, to the right."""
    first = len(head) - numbers
    return el(
        "div",
        el(
            "table",
            el("thead", el("tr", [_cell("th", h, i >= first) for i, h in enumerate(head)])),
            el("tbody", [el("tr", [_cell("td", c, i >= first) for i, c in enumerate(row)])
                         for row in rows]),
        ),
        class_="scroll",
    )  # fmt: skip


def _cell(name: str, content: Content, right: bool) -> Html:
    scope = "col" if name == "th" else None
    return el(name, content, scope=scope, class_="n" if right else None)


def result_table(data: ReportData) -> Html:
    """Every point of the frontier beside the baselines."""
    compared = data.frontier.baselines[:_MOST_BASELINES]
    metrics = list(dict.fromkeys(m for p in data.frontier.points for m in p.quality))
    metrics.sort(key=lambda m: m != data.metric)
    head = [
        "point",
        "what was done",
        f"latency {data.frontier.ms}",
        *(f"over {b.name}" for b in compared),
    ]
    head += [*metrics, "loss", "size", f"predicted {data.frontier.ms}"]
    rows = [
        el("tr", _point_cells(data, p, compared, metrics), data_row=i, tabindex=0)
        for i, p in enumerate(data.frontier.points)
    ]
    rows += [
        el("tr", _baseline_cells(b, compared, metrics), class_="base")
        for b in sorted(data.frontier.baselines, key=lambda b: b.latency_ms)
    ]
    heads = [_cell("th", h, i > 1) for i, h in enumerate(head)]
    return el(
        "div",
        el("table", el("thead", el("tr", heads)), el("tbody", rows), id="results"),
        class_="scroll",
    )


def _point_cells(
    data: ReportData, p: Point, compared: Sequence[Baseline], metrics: Sequence[str]
) -> list[Html]:
    low, high = p.latency_interval_ms
    cells: list[Content] = [
        [number(p.latency_ms), el("small", f"{number(low)}{TO}{number(high)}")],
        *(f"{b.latency_ms / p.latency_ms:.2f}{TIMES}" for b in compared),
        *(number(p.quality.get(m), 4) for m in metrics),
        percent(data.loss(p)),
        size(p.size_bytes),
        number(p.predicted_ms),
    ]
    label = data.labels.get(p.name, f"{len(p.choices)} choices" if p.choices else "dense")
    return [
        el("th", p.name, scope="row"),
        el("td", label, class_="what"),
        *(_cell("td", c, True) for c in cells),
    ]


def _baseline_cells(
    b: Baseline, compared: Sequence[Baseline], metrics: Sequence[str]
) -> list[Html]:
    cells: list[Content] = [
        number(b.latency_ms), *(f"{c.latency_ms / b.latency_ms:.2f}{TIMES}" for c in compared),
        *(number(b.quality.get(m), 4) for m in metrics), "", "", "",
    ]  # fmt: skip
    name = el("th", b.name, scope="row", colspan=2)
    return [name, *(_cell("td", c, True) for c in cells)]


def kernel_tables(data: ReportData) -> Html:
    """The kernels of each candidate, one behind each name; the first is open."""
    by_candidate = _grouped(data.kernels, lambda k: k.candidate)
    parts = []
    for i, (candidate, rows) in enumerate(by_candidate.items()):
        total = sum(k.median_us * k.count for k in rows) / 1000
        calls = sum(k.count for k in rows)
        label = data.labels.get(candidate, "")
        summary = el(
            "summary",
            el("b", candidate),
            f" {label} ",
            el(
                "span",
                f"{calls} calls, {number(total)} {data.frontier.ms} in kernels",
                class_="muted",
            ),
        )
        parts.append(el("details", summary, _kernel_table(rows, data.frontier.us), open=i == 0))  # fmt: skip
    return el("div", parts)


def _kernel_table(rows: Sequence[KernelRow], us: str) -> Html:
    with_peak = any(k.peak_share is not None for k in rows)
    head = ["kernel", "shapes", "calls", f"median {us}", "GFLOP/s", "share of time"]
    head += ["of peak"] if with_peak else []
    ordered = sorted(rows, key=lambda k: -k.share)
    return table(
        head,
        [
            [
                el("code", k.name), k.shapes, k.count, number(k.median_us), number(k.gflops),
                el("span", percent(k.share), class_="bar", style=f"--share:{k.share * 100:.1f}%"),
                *([percent(k.peak_share, 0)] if with_peak else []),
            ]
            for k in ordered
        ],
        numbers=len(head) - 2,
    )  # fmt: skip


def fusion_table(data: ReportData) -> Html:
    """The partition of each chain; that of several candidates is one row."""
    grouped = _grouped(data.fusions, lambda f: (f.chain, f.kept, f.us, f.default_us))
    return table(
        ["operators", "candidates", "kernels kept", data.frontier.us, f"{data.frontier.us} as relax fuses"],
        [
            [chain, _sites([f.candidate for f in rows]),
             kept if rows[0].changed else "as relax fuses", number(us), number(default)]
            for (chain, kept, us, default), rows in grouped.items()
        ],
        numbers=2,
    )  # fmt: skip


def change_table(data: ReportData) -> Html:
    """What each round's measurements changed."""
    return table(
        ["round", "site", "before", "after", "because", f"compared at, {data.frontier.ms}"],
        [
            [c.round, c.group, c.before, c.after, c.because, number(c.latency_ms)]
            for c in sorted(data.changes, key=lambda c: (c.round, natural(c.group)))
        ],
        numbers=1,
    )


def refusal_table(data: ReportData) -> Html:
    """What passes did not offer: a row for each reason, the sites behind a fold."""
    grouped = _grouped(data.refusals, lambda r: (r.pass_name, r.reason))
    return table(
        ["pass", "why not", "sites"],
        [[name, why, _sites([r.site for r in rows])] for (name, why), rows in grouped.items()],
    )


def veto_table(data: ReportData) -> Html:
    """What was measured and found to be no gain."""
    return table(
        ["site", "option", "why"],
        [[v.group, v.option, v.reason]
         for v in sorted(data.vetoes, key=lambda v: natural(v.group))],
    )  # fmt: skip


def option_table(data: ReportData) -> Html:
    """The tables that the search worked on."""
    sized = any(o.size_bytes is not None for o in data.options)
    return table(
        ["site", "option", f"latency {data.frontier.us}", "output error", *(["size"] if sized else [])],
        [
            [o.group, el("s", o.option, title=o.veto) if o.veto else o.option,
             number(o.latency_us), f"{o.error:.2e}", *([_size(o.size_bytes)] if sized else [])]
            for o in sorted(data.options, key=lambda o: natural(o.group))
        ],
        numbers=3 if sized else 2,
    )  # fmt: skip


def residual_table(data: ReportData) -> Html:
    """What was predicted of each candidate, and what was measured."""
    rows = data.predictions
    sized = any(p.predicted_bytes is not None for p in rows)
    head = [
        "candidate",
        "round",
        f"predicted {data.frontier.ms}",
        f"measured {data.frontier.ms}",
        "residual",
    ]
    head += ["predicted size", "measured size", "residual"] if sized else []
    found: list[list[Content]] = []
    for p in rows:
        cells: list[Content] = [
            p.name, p.round, number(p.predicted_ms), number(p.measured_ms),
            _residual(p.predicted_ms, p.measured_ms),
        ]  # fmt: skip
        if sized:
            cells += [_size(p.predicted_bytes), _size(p.measured_bytes)]
            cells += [_residual(p.predicted_bytes, p.measured_bytes)]
        found.append(cells)
    return table(head, found, numbers=len(head) - 1)


def _residual(predicted: float | None, measured: float | None) -> str:
    if predicted is None or not measured:
        return DASH
    return f"{(predicted / measured - 1) * 100:+.1f} %"


def _size(count: float | None) -> str:
    return DASH if count is None else size(round(count))


def facts(values: Mapping[str, Any]) -> Html:
    """Names and values, nested tables flattened with dots."""
    rows = [(el("dt", name), el("dd", text)) for name, text in _flat(values)]
    return el("dl", rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            found.append((prefix + name, text or "none"))
    return found


def _sites(sites: Sequence[str]) -> Html:
    ordered = sorted(sites, key=natural)
    if len(ordered) <= 2:
        return el("span", ", ".join(ordered))
    return el("details", el("summary", f"{len(ordered)} sites"), ", ".join(ordered))


def _grouped(rows: Sequence[R], key: Callable[[R], Any]) -> dict[Any, list[R]]:
    found: dict[Any, list[R]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found
