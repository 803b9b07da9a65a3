"""The rounds of the search: propose, build, measure, evaluate, learn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from codesign.config import SweepConfig
from codesign.latency import Calibration, Run, fit
from codesign.loop.candidates import Judge, Judged
from codesign.loop.request import Scorer
from codesign.loop.tabling import Tabled
from codesign.loop.workshop import BuildError
from codesign.measurement import Measurement
from codesign.progress import ProgressReporter
from codesign.records.entries import Evaluation
from codesign.search import (
    Change,
    Correction,
    Limits,
    Observation,
    Plan,
    Tables,
    changes,
    learn_together,
    propose_among,
    saved_share,
)

USUAL_LOSS = 0.01
"""Relative loss that each round aims at, and that the outcome tells of, where the user set no goal."""

WORST_LOSS = 0.25
"""Relative loss of the metric beyond which no candidate is worth its time."""

EACH_ROUND = 4
"""Candidates built between two corrections of the tables."""


@dataclass
class Rounds:
    """The state of a search.

    Attributes:
        known: the bases with their tables as measured, without corrections; the model itself first.
        more: gives another base, or None if there is none. Where time is limited it is asked after each
            round, so that no base delays the first one; else all are there from the start.
        deadline: time at which no further candidate is begun, as `time.monotonic` tells it; the first
            round is run all the same, or a short budget would end in nothing.
        judged: everything built and evaluated, in order.
        failed: key -> why a candidate could not be had.
        changes: what measuring changed in the choices.
    """

    known: list[Tabled]
    more: Callable[[], Tabled | None]
    judge: Judge
    scorer: Scorer
    config: SweepConfig
    deadline: float
    progress: ProgressReporter
    dense: Judged
    judged: list[Judged] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    out_of_time: bool = False
    """Whether the minutes of the budget ended the search."""

    def run(self) -> None:
        """Search until the budget ends or nothing new is proposed."""
        self._search()
        self.out_of_time = time.monotonic() >= self.deadline

    def _search(self) -> None:
        most = self.config.budget.measurements
        if self.deadline == math.inf:
            while self._grown():
                pass
        number = 0
        while number == 0 or self._goes_on(most):
            number += 1
            before = self.corrected()
            k = EACH_ROUND if most is None else min(EACH_ROUND, most - len(self.judged))
            plans = propose_among(
                before,
                self.corrections()[0],
                [self._measured(base) for base in range(len(self.known))],
                k,
                limits=self.limits(),
                refused=set(self.failed),
            )
            if plans:
                self._round(plans, number)
                self.changes += self._changes(before, plans, number)
            if not self._goes_on(most) or not (self._grown() or plans):
                return

    def _grown(self) -> bool:
        """Take up another base if there is one."""
        tabled = self.more()
        if tabled is not None:
            self.known.append(tabled)
        return tabled is not None

    def _measured(self, base: int) -> list[tuple[int, ...]]:
        """Picks of all that was built from a base; the dense model was before the search."""
        untouched = [(0,) * len(self.known[0].tables.groups)] if base == 0 else []
        return [*untouched, *(j.picks for j in self.judged_of(base))]

    def judged_of(self, base: int) -> list[Judged]:
        """The candidates that start from a base."""
        own = self.known[base].base
        return [j for j in self.judged if self.judge.bases.of(j.candidate) is own]

    def _changes(
        self, before: list[Tables], plans: list[tuple[int, Plan]], number: int
    ) -> list[Change]:
        """What the round changed in the choices of each base of which something was built."""
        found: list[Change] = []
        for i, (old, new) in enumerate(zip(before, self.corrected(), strict=True)):
            levels = [plan.seconds for at, plan in plans if at == i]
            named = self.known[i].base.named
            found += [replace(c, group=named(c.group)) for c in changes(old, new, levels, number)]
        return found

    def _goes_on(self, most: int | None) -> bool:
        return time.monotonic() < self.deadline and (most is None or len(self.judged) < most)

    def _round(self, proposed: list[tuple[int, Plan]], number: int) -> None:
        calibration = self.calibration()
        plans = [plan for _, plan in proposed]
        candidates = [self.known[i].tables.candidate(plan.picks) for i, plan in proposed]

        def goes_on() -> bool:
            return number == 1 or time.monotonic() < self.deadline

        solved = self.judge.solve(candidates, goes_on)
        built = []
        for plan, candidate in zip(plans, candidates, strict=True):
            if candidate.key not in solved and not goes_on():
                continue
            try:
                made, error = self.judge.build(candidate, solved.pop(candidate.key, None))
            except BuildError as failure:
                self.failed[candidate.key] = str(failure)
                continue
            latency = self.judge.latency(candidate, made, self.dense.built.bundle.path)
            if not latency.ok:
                self.failed[candidate.key] = latency.error or ""
                continue
            predicted = calibration.predict(made.kernel_seconds, made.calls)
            built.append((plan, candidate, made, error, latency, predicted))
        self.progress.start(f"search, round {number}: built and measured, quality", len(built))
        scores = self.judge.quality(
            [(c, m, e) for _, c, m, e, _, _ in built], self.scorer.function, self.scorer.tag
        )
        for (plan, candidate, made, _, latency, predicted), evaluation in zip(
            built, scores, strict=True
        ):
            judged = Judged(
                candidate, plan.picks, made, latency, evaluation, predicted, number, plan.size
            )
            self.judged.append(judged)
            self.progress.step(self._line(judged))

    def _line(self, judged: Judged) -> str:
        speedup = 1.0 / judged.latency.ratio
        quality = judged.evaluation.quality[self.config.goal.metric]
        emulated = " emulated" if judged.latency.meta.get("emulated") else ""
        return f"{speedup:.2f}x dense{emulated}, {self.config.goal.metric} {quality:.4f}"

    def corrections(self) -> list[Correction]:
        """What all candidates so far teach of each base."""
        seen = [
            [Observation(j.picks, j.evaluation.output_error, self.loss(j)) for j in own]
            for own in map(self.judged_of, range(len(self.known)))
        ]
        return learn_together([k.tables for k in self.known], seen)

    def corrected(self) -> list[Tables]:
        """The tables of each base with what was learnt."""
        pairs = zip(self.known, self.corrections(), strict=True)
        return [correction.apply(known.tables) for known, correction in pairs]

    def calibration(self) -> Calibration:
        """From kernel sums to end-to-end seconds, by all runs so far."""
        return fit([self.as_run(j) for j in (self.dense, *self.judged)])

    def as_run(self, judged: Judged) -> Run:
        """A candidate as the latency model sees it."""
        seconds = end_to_end(judged.latency, self.dense.latency)
        return Run(judged.candidate.key, judged.built.kernel_seconds, judged.built.calls, seconds)

    def loss(self, judged: Judged) -> float:
        """Relative loss of the metric against the dense model."""
        return relative_loss(self.dense.evaluation, judged.evaluation, self.config.goal.metric)

    def limits(self) -> Limits:
        """The user's goals in the units of the tables."""
        goal = self.config.goal
        loss = goal.max_loss
        reference = self.dense.evaluation.quality[goal.metric]
        if goal.min_quality is not None and reference > 0:
            worst = 1.0 - goal.min_quality / reference
            loss = worst if loss is None else min(loss, worst)
        seconds = None
        if goal.max_latency_ms is not None:
            calibration = self.calibration()
            calls = self.dense.built.calls
            ratio = goal.max_latency_ms * 1e-3 - calibration.per_kernel * calls
            seconds = max(ratio, 1e-6) / calibration.scale
        return Limits(seconds, loss, WORST_LOSS, USUAL_LOSS, goal.sized, self._max_size())

    def _max_size(self) -> float | None:
        """The limit of the size in the bytes of the tables, by what bundles so far really take."""
        most = self.config.goal.max_size_mb
        if most is None:
            return None
        dense = self.dense.built.bundle.size_bytes
        sizes = [(j.predicted_size, j.built.bundle.size_bytes) for j in self.judged]
        share = max(saved_share(dense, sizes), 0.1)
        return dense - (dense - most * 1e6) / share


def relative_loss(dense: Evaluation, other: Evaluation, metric: str) -> float:
    """``1 - other / dense`` of the metric; 0 where the dense model scores 0."""
    reference = dense.quality[metric]
    return 0.0 if reference == 0 else 1.0 - other.quality[metric] / reference


def end_to_end(latency: Measurement, dense: Measurement) -> float:
    """Seconds free of drift: the ratio to the dense model times its median."""
    if math.isnan(latency.ratio):
        return latency.seconds
    return latency.ratio * dense.seconds
