"""What is known of one candidate, and how it comes to be known."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.bundle import open_bundle
from codesign.candidate import Candidate
from codesign.device import measure_key
from codesign.errors import UserError
from codesign.loop.agreement import agreeing
from codesign.loop.bases import Bases
from codesign.loop.rewrite import rewrite_candidate
from codesign.loop.solver import SolvedCandidate, solve_candidate, solve_side_by_side
from codesign.loop.workshop import Built, Workshop, twin_of
from codesign.machine import cores
from codesign.measurement import Measurement
from codesign.prepare import Prepared
from codesign.records.entries import Evaluation, EvaluationKey, MeasureKey
from codesign.runtime import Predictor
from codesign.user_code import Quality, evaluate, is_concurrent


@dataclass(frozen=True)
class Judged:
    """A candidate that was built, measured and evaluated.

    Attributes:
        picks: what the search took for it; empty for the dense model.
        latency: end-to-end; its ratio is against the dense model.
        evaluation: quality on the data that steers the search, and the error of the outputs.
        predicted: seconds that were expected before it was built; NaN for the dense model.
        round: of the search in which it was built.
        predicted_size: bytes of the bundle that were expected; NaN where nobody asks for size.
    """

    candidate: Candidate
    picks: tuple[int, ...]
    built: Built
    latency: Measurement
    evaluation: Evaluation
    predicted: float
    round: int
    predicted_size: float = math.nan


@dataclass
class Judge:
    """Builds, measures and evaluates candidates; what the records know is not done again.

    Attributes:
        bases: what candidates start from.
        solver_version: of solvers and calibration data, part of the keys.
        compared: latencies of candidates whose outputs on a device were compared with this machine's.
    """

    prepared: Prepared
    bases: Bases
    workshop: Workshop
    folder: Path
    solver_version: str
    metric: str
    compared: list[Measurement] = field(default_factory=list)

    def path(self, candidate: Candidate) -> Path:
        """Where the bundle of a candidate is."""
        return self.folder / ("dense" if not candidate.choices else candidate.key[:12])

    def solve(
        self, candidates: Sequence[Candidate], goes_on: Callable[[], bool] = lambda: True
    ) -> dict[str, SolvedCandidate]:
        """Solve what has no bundle yet: key -> what came out; see `solve_side_by_side`."""
        bases = {c.key: self.bases.of(c) for c in candidates}
        todo = [
            c for c in candidates if len(c) > len(bases[c.key].choices) and self._bundle(c) is None
        ]
        if not todo:
            return {}
        target = self.workshop.target
        solvers = {c.key: bases[c.key].solver for c in todo}  # made before threads ask for them

        def solve(candidate: Candidate, step: Callable[[], None]) -> SolvedCandidate:
            base, solver = bases[candidate.key], solvers[candidate.key]
            return solve_candidate(base.sites, base.simulator, solver, candidate, target, step)

        progress = self.workshop.progress
        progress.start("solve the weights of candidates", len(todo))
        return solve_side_by_side(todo, solve, goes_on, progress.step)

    def build(
        self, candidate: Candidate, solved: SolvedCandidate | None = None
    ) -> tuple[Built, float | None]:
        """The candidate's bundle, solved and built unless it is there already; and its output error."""
        known = self._bundle(candidate)
        if known is not None:
            return known
        base = self.bases.of(candidate)
        if solved is None and len(candidate) > len(base.choices):
            solved = self.solve([candidate])[candidate.key]
        elif solved is None:
            solved = SolvedCandidate(output_error=base.error)
        model = rewrite_candidate(
            base.model,
            solved.blocks,
            solved.dropped,
            self.workshop.target,
            base.sites.layers,
            solved.tokens,
        )
        choices = [c.plain() | {"setting": dict(c.setting)} for c in candidate]
        extra: dict[str, Any] = {"candidate": candidate.key, "model": self.prepared.hash}
        extra |= {"output_error": solved.output_error, "solver": self.solver_version}
        built = self.workshop.build(model, self.path(candidate), choices, extra)
        return built, solved.output_error

    def _bundle(self, candidate: Candidate) -> tuple[Built, float | None] | None:
        """The bundle as an earlier session left it, if it is whole and of the same solver."""
        path = self.path(candidate)
        if not path.exists():
            return None
        elsewhere = self.workshop.station.told is not None
        try:
            bundle = open_bundle(path, to_run=not elsewhere)
            twin = open_bundle(twin_of(path)) if elsewhere else None
        except UserError:
            shutil.rmtree(path, ignore_errors=True)
            return None
        extra = bundle.manifest["extra"]
        same = (candidate.key, self.prepared.hash, self.solver_version)
        if (extra.get("candidate"), extra.get("model"), extra.get("solver")) != same:
            return None
        kernels: Mapping[str, int] = extra["kernels"]
        unknown = [h for h in kernels if h not in self.workshop.tuned]
        seconds = extra["kernel_seconds"] if unknown else self.workshop.kernel_seconds(kernels)
        fusions = tuple(extra.get("fusions", ()))
        return Built(bundle, kernels, float(seconds), fusions, twin), extra.get("output_error")

    def latency(self, candidate: Candidate, built: Built, dense: Path | None) -> Measurement:
        """End-to-end latency, interleaved with the dense model."""
        records, key = self.workshop.records, self._latency_key(candidate)
        known = records.find_measurement(key)
        if known is not None:
            self.compared += [known] if "difference" in known.meta else []
            return known
        measured = self.workshop.measure([built.bundle.path], dense)[0]
        if measured.ok and built.twin is not None:
            measured = agreeing(measured, self.workshop.rig, built, self.bases.first.samples[0])
            if measured.ok:
                self.compared.append(measured)
        records.add_measurement(key, measured)
        return measured

    def _latency_key(self, candidate: Candidate) -> MeasureKey:
        workshop = self.workshop
        what = f"{self.prepared.hash}:{candidate.key}:{self.solver_version}"
        return measure_key(what, workshop.target, workshop.device, workshop.rig.protocol, "bundle")

    def quality(
        self,
        wanted: Sequence[tuple[Candidate, Built, float | None]],
        quality: Quality,
        dataset: str,
        step: Callable[[], None] = lambda: None,
    ) -> list[Evaluation]:
        """Quality of candidates; as many at once as there are cores for, if the function allows.

        Raises:
            UserError: the user's function raises or returns no usable scores.
        """
        threads = self.workshop.target.threads
        at_once = max(1, (cores() // threads)) if is_concurrent(quality) else 1
        if len(wanted) <= 1 or at_once == 1:
            return [self._quality(*w, quality, dataset, step) for w in wanted]
        known = [self.workshop.records.find_evaluation(self._key(c, dataset)) for c, _, _ in wanted]
        todo = [w for w, k in zip(wanted, known, strict=True) if k is None]
        with ThreadPoolExecutor(at_once) as pool:
            scores = list(pool.map(lambda w: self._scores(w[1], quality, step), todo))
        fresh = iter(
            self._store(c, dataset, s, e) for (c, _, e), s in zip(todo, scores, strict=True)
        )
        return [k if k is not None else next(fresh) for k in known]

    def _quality(
        self,
        candidate: Candidate,
        built: Built,
        error: float | None,
        quality: Quality,
        dataset: str,
        step: Callable[[], None],
    ) -> Evaluation:
        known = self.workshop.records.find_evaluation(self._key(candidate, dataset))
        if known is not None:
            step()
            return known
        return self._store(candidate, dataset, self._scores(built, quality, step), error)

    def _scores(self, built: Built, quality: Quality, step: Callable[[], None]) -> dict[str, float]:
        with Predictor(built.runs_here) as predictor:
            scores = evaluate(quality, predictor.run, self.metric)
        step()
        return scores

    def _store(
        self, candidate: Candidate, dataset: str, scores: dict[str, float], error: float | None
    ) -> Evaluation:
        evaluation = Evaluation(scores, error)
        self.workshop.records.add_evaluation(self._key(candidate, dataset), evaluation)
        return evaluation

    def _key(self, candidate: Candidate, dataset: str) -> EvaluationKey:
        return EvaluationKey(self.prepared.hash, candidate.key, dataset, self.solver_version)
