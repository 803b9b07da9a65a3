"""Everything a report shows, as plain data: saved beside the frontier, drawn without TVM."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.files import write_text
from codesign.frontier import Frontier, Point, read_json
from codesign.frozen import FrozenMap
from codesign.latency import Calibration
from codesign.pareto import front
from codesign.schema import dump, load

FILE = "report.json"
"""Name of the file in a run's folder."""


@dataclass(frozen=True)
class KernelRow:
    """A kernel as one candidate runs it.

    Attributes:
        candidate: point or baseline that it belongs to.
        name: family or fused name.
        shapes: as text, such as ``128x384 · 384x1536``.
        count: calls of one inference.
        median_us: of one call.
        gflops: useful work per second in 1e9 operations; None where that says nothing.
        share: of the candidate's kernel time, all calls.
        peak_share: of the machine's measured peak for this type; None if unknown.
    """

    candidate: str
    name: str
    shapes: str
    count: int
    median_us: float
    gflops: float | None
    share: float
    peak_share: float | None = None


@dataclass(frozen=True)
class Refusal:
    """Something a pass did not offer at a site, and why."""

    pass_name: str = field(metadata={"json": "pass"})
    site: str
    reason: str


@dataclass(frozen=True)
class Veto:
    """An option that was offered but measured to be no gain."""

    group: str
    option: str
    reason: str


@dataclass(frozen=True)
class ChangeRow:
    """A choice that changed because of what a round measured."""

    round: int
    group: str
    latency_ms: float
    before: str
    after: str
    because: str


@dataclass(frozen=True)
class Prediction:
    """A prediction made before the candidate was built, and what was measured then.

    Attributes:
        predicted_bytes, measured_bytes: of the bundle; None where nobody asked for size.
    """

    name: str
    predicted_ms: float
    measured_ms: float
    round: int = 0
    predicted_bytes: float | None = None
    measured_bytes: int | None = None


@dataclass(frozen=True)
class FusionRow:
    """Operators in a row, and the kernels that measurement made of them.

    Attributes:
        candidate: point that runs them.
        chain: the operators, groups of relax's fixed rule apart: ``linear+add+add | layer_norm``.
        kept: the kernels of the fastest partition.
        us: microseconds of those; ``default_us``: of relax's groups.
        calls: of the chain in one inference.
    """

    candidate: str
    chain: str
    kept: str
    us: float
    default_us: float
    calls: int
    changed: bool


@dataclass(frozen=True)
class OptionRow:
    """An entry of the search's tables: measured latency and sensitivity of one option.

    Attributes:
        size_bytes: that its weights take in a bundle; None where nobody asked for size.
    """

    group: str
    option: str
    latency_us: float
    error: float
    veto: str = ""
    size_bytes: float | None = None


@dataclass(frozen=True)
class RecordCounts:
    """Records made and reused by the run, by kind; ``again`` must be empty."""

    made: Mapping[str, int] = field(default_factory=FrozenMap)
    reused: Mapping[str, int] = field(default_factory=FrozenMap)
    again: Mapping[str, int] = field(default_factory=FrozenMap)


@dataclass(frozen=True)
class ReportData:
    """One run.

    Attributes:
        frontier: the result, as in frontier.json.
        metric: the quality that the plot shows.
        reference: name of the baseline that losses are relative to.
        labels: point name -> short text of its choices.
        others: points measured and evaluated, but dominated.
        calibration: of the latency prediction, as last fitted.
        goal: goals and budget as the user gave them.
        device, versions: what the numbers hold for.
        created: date and time as text; minutes: how long the run took.
        notes: sentences worth reading, such as a goal missed and by how much.
    """

    frontier: Frontier
    metric: str
    reference: str = "dense"
    labels: Mapping[str, str] = field(default_factory=FrozenMap)
    others: tuple[Point, ...] = ()
    kernels: tuple[KernelRow, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    vetoes: tuple[Veto, ...] = ()
    changes: tuple[ChangeRow, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    options: tuple[OptionRow, ...] = ()
    fusions: tuple[FusionRow, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)
    records: RecordCounts = RecordCounts()
    goal: Mapping[str, Any] = field(default_factory=FrozenMap)
    device: Mapping[str, Any] = field(default_factory=FrozenMap)
    versions: Mapping[str, Any] = field(default_factory=FrozenMap)
    created: str = ""
    minutes: float | None = None
    notes: tuple[str, ...] = ()

    def save(self, folder: str | Path) -> Path:
        """Write report.json into a run's folder.

        Raises:
            UserError: the folder cannot be written.
        """
        text = json.dumps(dump(self), indent=1, allow_nan=False)
        return write_text(Path(folder) / FILE, text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> ReportData:
        """Read report.json of a run's folder.

        Raises:
            UserError: there is none, or it is not what `save` wrote.
        """
        return load(cls, read_json(Path(folder) / FILE, f"{FILE} of the run"), "report", extra=True)

    def quality(self, point: Point) -> float | None:
        """The metric of a point."""
        return point.quality.get(self.metric)

    def reference_quality(self) -> float | None:
        """The metric of the uncompressed model; None if it was not evaluated."""
        for baseline in self.frontier.baselines:
            if baseline.name == self.reference:
                return baseline.quality.get(self.metric)
        return None

    def fastest_for_quality(self) -> tuple[Point, ...]:
        """The points of the frontier that no other dominates in latency and quality alone."""
        points = [p for p in self.frontier.points if self.quality(p) is not None]
        pairs = [(p.latency_ms, self.quality(p) or 0.0) for p in points]
        return tuple(points[i] for i in front(pairs))

    def best_for_size(self) -> tuple[Point, ...]:
        """The points of the frontier that no other dominates in size and quality, smallest first."""
        points = [p for p in self.frontier.points if self.quality(p) is not None]
        pairs = [(float(p.size_bytes), self.quality(p) or 0.0) for p in points]
        return tuple(points[i] for i in front(pairs))

    def loss(self, point: Point) -> float | None:
        """Relative loss of the metric; negative is a gain."""
        reference, quality = self.reference_quality(), self.quality(point)
        return None if not reference or quality is None else 1.0 - quality / reference
