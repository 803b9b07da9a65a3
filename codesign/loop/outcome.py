"""What a sweep leaves: frontier.json, report.html, frontier.png, and what a program or a person reads."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from codesign.candidate import WHOLE, Candidate
from codesign.config import Goal
from codesign.frontier import OBJECTIVES, SIZE, Baseline, Frontier, Point
from codesign.loop.candidates import Judge
from codesign.loop.finals import Final, Finals
from codesign.loop.further import FurtherBases
from codesign.loop.kernel_table import kernel_rows
from codesign.loop.rounds import USUAL_LOSS, Rounds, end_to_end, relative_loss
from codesign.loop.run_notes import device_notes, emulated_note, ending_note
from codesign.pareto import frontier as frontier_of
from codesign.report import (
    ChangeRow,
    FusionRow,
    OptionRow,
    Prediction,
    RecordCounts,
    Refusal,
    ReportData,
    Veto,
    write,
)
from codesign.schema import dump
from codesign.versions import versions

BUNDLES = "bundles"


@dataclass(frozen=True)
class SweepResult:
    """The outcome of a sweep.

    Attributes:
        folder: of the run.
        data: everything the report shows.
        paths: files written, by what they are.
    """

    folder: Path
    data: ReportData
    paths: dict[str, Path]

    @property
    def frontier(self) -> Frontier:
        """The points that do not dominate each other, with the baselines."""
        return self.data.frontier

    def as_dict(self) -> dict[str, Any]:
        """frontier.json with the folder and the records' counts."""
        plain = dump(self.data.frontier)
        plain["folder"] = str(self.folder)
        plain["records"] = dump(self.data.records)
        plain["notes"] = list(self.data.notes)
        return plain

    def tables(self) -> list[Any]:
        """What a person wants to see at the end."""
        return [frontier_table(self.data), *self.data.notes, f"report: {self.paths['html']}"]


def write_outcome(
    rounds: Rounds,
    finals: Finals,
    further: FurtherBases,
    judge: Judge,
    folder: Path,
    started: float,
) -> SweepResult:
    """Choose the frontier, name its points, move its bundles in place, and write all files."""
    metric, sized = rounds.config.goal.metric, rounds.config.goal.sized
    everyone = [finals.dense, *finals.others]
    places = [(f.latency.seconds, f.quality.quality[metric], _size(f)) for f in everyone]
    on_front = [everyone[i] for i in frontier_of(places, sized)]
    points = tuple(_point(f, f"p{i:02d}", judge, folder, rounds) for i, f in enumerate(on_front))
    behind = [f for f in everyone if f not in on_front]
    others = tuple(_point(f, f"d{i:02d}", judge, folder, rounds) for i, f in enumerate(behind))
    frontier = Frontier(
        judge.prepared.model.name,
        judge.workshop.target.name,
        judge.workshop.target.threads,
        judge.workshop.rig.protocol.to_json(),
        _baselines(finals),
        points,
        (*OBJECTIVES, SIZE) if sized else OBJECTIVES,
        judge.workshop.station.emulated,
    )
    named = {f.judged.candidate.key: p.name for f, p in zip(on_front, points, strict=True)}
    counts = judge.workshop.records.counts(str(folder.resolve()), judge.workshop.records.session)
    data = ReportData(
        frontier,
        metric,
        labels={p.name: Candidate(p.choices).label() for p in (*points, *others)},
        others=others,
        kernels=tuple(
            row
            for f, p in zip(on_front, points, strict=True)
            for row in kernel_rows(p.name, f.judged.built.kernels, judge.workshop)
        ),
        fusions=tuple(
            FusionRow(p.name, **choice)
            for f, p in zip(on_front, points, strict=True)
            for choice in f.judged.built.fusions
        ),
        refusals=tuple(
            Refusal(r.op, r.site, r.reason)
            for r in (*further.first.space.refusals, *further.refused)
        ),
        vetoes=(*(Veto(WHOLE, *veto) for veto in further.vetoes), *_vetoes(rounds)),
        changes=tuple(
            ChangeRow(c.round, c.group, c.seconds * 1e3, c.before, c.after, c.because)
            for c in rounds.changes
        ),
        predictions=_predictions(rounds, named),
        options=_options(rounds),
        calibration=rounds.calibration(),
        records=RecordCounts(counts.made, counts.reused, counts.again),
        goal=rounds.config.tables()["goal"],
        device=judge.workshop.station.facts(),
        versions=versions() | ({"onnxruntime": finals.onnx_version} if finals.onnx else {}),
        created=time.strftime("%Y-%m-%d %H:%M:%S"),
        minutes=(time.monotonic() - started) / 60,
        notes=(
            *emulated_note(frontier),
            *device_notes(judge),
            *ending_note(rounds),
            *notes(rounds, finals, on_front, frontier.ms),
        ),
    )
    return SweepResult(folder, data, write(data, folder))


def _point(final: Final, name: str, judge: Judge, folder: Path, rounds: Rounds) -> Point:
    judged = final.judged
    path = folder / BUNDLES / name
    _link(judged.built.bundle.path, path)
    predicted = judged.predicted
    if predicted != predicted:  # the dense model is what the prediction starts from
        predicted = rounds.calibration().predict(judged.built.kernel_seconds, judged.built.calls)
    return Point(
        name,
        final.latency.seconds * 1e3,
        (final.latency.lo * 1e3, final.latency.hi * 1e3),
        predicted * 1e3,
        final.quality.quality,
        _size(final),
        judged.candidate.choices,
        f"{BUNDLES}/{name}",
    )


def _link(source: Path, path: Path) -> None:
    """The bundle under its name; hard links, so that a name costs no space."""
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(source, path, copy_function=os.link)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source, path)


def _baselines(finals: Finals) -> tuple[Baseline, ...]:
    found = [Baseline("dense", finals.dense.latency.seconds * 1e3, finals.dense.quality.quality)]
    if finals.onnx is not None:
        quality = finals.dense.quality.quality  # the same function of the same weights in fp32
        found.append(Baseline("onnxruntime fp32", finals.onnx.seconds * 1e3, quality))
    return tuple(found)


def _vetoes(rounds: Rounds) -> tuple[Veto, ...]:
    """One line for each kind of option and reason, not for each combination."""
    found: dict[tuple[str, str], Veto] = {}
    for known in rounds.known:
        for group in known.tables.groups:
            name = known.base.named(group.name)
            for option in group.options:
                if option.veto and len(option.choices) == 1:
                    found.setdefault((name, option.label), Veto(name, option.label, option.veto))
    return tuple(found.values())


def _options(rounds: Rounds) -> tuple[OptionRow, ...]:
    """Options that change at most one thing, and the bases as they are: the measured tables in short."""
    sized = rounds.config.goal.sized

    def row(
        site: str, label: str, seconds: float, error: float, veto: str, size: float
    ) -> OptionRow:
        return OptionRow(site, label, seconds * 1e6, error, veto, size if sized else None)

    bases = []
    for base, tables in ((k.base, k.tables) for k in rounds.known if k.base.choices):
        untouched = (0,) * len(tables.groups)
        seconds = tables.totals(untouched)[0]
        bases.append(row(WHOLE, base.label, seconds, base.error, "", tables.size(untouched)))
    options = (
        row(known.base.named(g.name), o.label, o.seconds, o.error, o.veto, o.size)
        for known in rounds.known
        for g in known.tables.groups
        for o in g.options
        if len(o.choices) <= 1 and g.name != WHOLE
    )
    return (*bases, *options)


def _predictions(rounds: Rounds, named: dict[str, str]) -> tuple[Prediction, ...]:
    sized = rounds.config.goal.sized
    return tuple(
        Prediction(
            named.get(j.candidate.key, j.candidate.key[:8]),
            j.predicted * 1e3,
            end_to_end(j.latency, rounds.dense.latency) * 1e3,
            j.round,
            j.predicted_size if sized else None,
            j.built.bundle.size_bytes if sized else None,
        )
        for j in rounds.judged
    )


def notes(rounds: Rounds, finals: Finals, on_front: Sequence[Final], ms: str = "ms") -> list[str]:
    """Sentences that a reader should not miss; ``ms`` is the unit of times."""
    found = []
    if finals.onnx is None:
        found.append(f"ONNX Runtime was not measured: {finals.why_no_onnx}")
    goal, metric = rounds.config.goal, rounds.config.goal.metric
    most = USUAL_LOSS if goal.max_loss is None else goal.max_loss
    good = [f for f in on_front if _loss(finals, f, metric) <= most]
    within = [f for f in good if _small_enough(f, goal)]
    if within:
        best = min(within, key=lambda f: f.latency.seconds)
        limit = "" if goal.max_size_mb is None else f" and {goal.max_size_mb:g} MB"
        size = f", {_mb(_size(best))} MB" if goal.sized else ""
        found.append(
            f"fastest within {most:.2%} loss of {metric}{limit}: "
            f"{best.latency.seconds * 1e3:.2f} {ms}{size}, {_times(best, finals)}"
        )
    elif goal.max_loss is not None and not good:
        found.append(f"no point loses at most {most:.2%} of {metric}")
    if goal.sized:
        loss = f"{most:.2%} loss of {metric}"
        found += _size_notes(goal, finals, on_front, good, loss, ms)
    fastest_of_all = min(on_front, key=lambda f: f.latency.seconds)
    found.append(
        f"fastest of all: {fastest_of_all.latency.seconds * 1e3:.2f} {ms}, "
        f"{_times(fastest_of_all, finals)}, "
        f"{_loss(finals, fastest_of_all, metric):.1%} loss of {metric}"
    )
    if goal.max_latency_ms is not None:
        fastest = min(f.latency.seconds for f in on_front) * 1e3
        if fastest > goal.max_latency_ms:
            found.append(
                f"no point takes at most {goal.max_latency_ms} ms; the fastest takes {fastest:.2f} {ms}"
            )
    found += [f"a candidate failed: {why.splitlines()[0]}" for why in rounds.failed.values() if why]
    return found


def _size_notes(
    goal: Goal,
    finals: Finals,
    on_front: Sequence[Final],
    good: Sequence[Final],
    loss: str,
    ms: str,
) -> list[str]:
    """What is the smallest, and whether anything is as small as asked for.

    Args:
        good: those on the front that lose little enough, which is ``loss`` in words.
        ms: the unit of times.
    """
    found = []
    if good:
        best = min(good, key=_size)
        ratio = _size(finals.dense) / _size(best)
        found.append(
            f"smallest within {loss}: {_mb(_size(best))} MB, {ratio:.2f}x smaller than dense, "
            f"{best.latency.seconds * 1e3:.2f} {ms}, {_times(best, finals)}"
        )
    for points, what in ((on_front, "takes at most"), (good, f"within {loss} takes at most")):
        if points and not any(_small_enough(f, goal) for f in points):
            found.append(
                f"no point {what} {goal.max_size_mb:g} MB; "
                f"the smallest takes {_mb(min(map(_size, points)))} MB"
            )
            break
    return found


def _small_enough(final: Final, goal: Goal) -> bool:
    return goal.max_size_mb is None or _size(final) <= goal.max_size_mb * 1e6


def _size(final: Final) -> int:
    return final.judged.built.bundle.size_bytes


def _mb(size: int) -> str:
    """Megabytes in three digits."""
    return f"{size / 1e6:.3g}"


def _loss(finals: Finals, final: Final, metric: str) -> float:
    return relative_loss(finals.dense.quality, final.quality, metric)


def _times(final: Final, finals: Finals) -> str:
    over_dense = f"{finals.dense.latency.seconds / final.latency.seconds:.2f}x over dense"
    if finals.onnx is None:
        return over_dense
    return (
        f"{over_dense}, {finals.onnx.seconds / final.latency.seconds:.2f}x over ONNX Runtime fp32"
    )


def frontier_table(data: ReportData) -> Table:
    """The frontier for a terminal."""
    frontier = data.frontier
    by_name = {b.name: b for b in frontier.baselines}
    dense, onnx = by_name["dense"], by_name.get("onnxruntime fp32")
    title = f"{frontier.model} on {frontier.target}, {frontier.threads} thread(s)"
    table = Table(title=title)
    headings = (
        "point",
        f"latency {frontier.ms}",
        "interval",
        "x dense",
        "x ORT fp32",
        data.metric,
        "loss",
    )
    for heading in (*headings, "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what was done", overflow="fold")
    for b in frontier.baselines:
        quality = b.quality.get(data.metric)
        table.add_row(
            b.name, f"{b.latency_ms:.2f}", "", f"{dense.latency_ms / b.latency_ms:.2f}",
            f"{onnx.latency_ms / b.latency_ms:.2f}" if onnx else "",
            f"{quality:.4f}" if quality is not None else "", "", "", "",
        )  # fmt: skip
    for p in frontier.points:
        low, high = p.latency_interval_ms
        loss = data.loss(p)
        table.add_row(
            p.name, f"{p.latency_ms:.2f}", f"{low:.2f}-{high:.2f}",
            f"{dense.latency_ms / p.latency_ms:.2f}",
            f"{onnx.latency_ms / p.latency_ms:.2f}" if onnx else "",
            f"{p.quality[data.metric]:.4f}", "" if loss is None else f"{loss:+.2%}",
            f"{p.size_bytes / 1e6:.2f}", data.labels.get(p.name, ""),
        )  # fmt: skip
    return table
