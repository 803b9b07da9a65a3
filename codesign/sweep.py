"""The loop: tables of measured latency and measured sensitivity, search, build, measure, learn, again.

1. import         the model, its sites, the calibration samples
2. dense          the uncompressed model, built, measured and evaluated
3. space          what may be decided, and the kernels that each decision leads to
4. tune           every such kernel once for this target and device
5. sensitivity    what each single decision does to the outputs
6. rounds         search, solve, build, measure, evaluate; the tables learn from what came out
7. finals         held-out quality, and latency in lock-step with the baselines
8. outcome        frontier.json, report.html, frontier.png, bundles

Everything measured is in the records before it is used, so a run that is stopped goes on from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codesign.candidate import Candidate
from codesign.config import SweepConfig
from codesign.device import this_device
from codesign.errors import UserError
from codesign.files import writable_folder
from codesign.frozen import digest
from codesign.loop.baseline import open_baseline
from codesign.loop.candidates import Judge, Judged
from codesign.loop.finals import run_finals
from codesign.loop.gains import at_full_width, gainful
from codesign.loop.layer_solver import LayerSolver
from codesign.loop.lengths import lengths_of, with_lengths
from codesign.loop.offers import all_offers
from codesign.loop.onnx_baseline import OnnxBaseline
from codesign.loop.outcome import BUNDLES, SweepResult, write_outcome
from codesign.loop.request import SweepRequest
from codesign.loop.rounds import Rounds
from codesign.loop.sensitivity import Sensitivities, SensitivityProbe
from codesign.loop.tables import Space, space_of, tables_of
from codesign.loop.workshop import Workshop
from codesign.machine import cores
from codesign.measure import Rig
from codesign.measurement import Protocol
from codesign.prepare import Prepared, prepare
from codesign.progress import ProgressReporter, Silent
from codesign.records import Records
from codesign.records.entries import SensitivityKey
from codesign.search import Tables
from codesign.simulate import Simulator
from codesign.user_code import Arrays, calibration_samples
from passes import fuse
from targets.target import find

SOLVER = "3"
"""Version of the solvers and the simulator: a new one makes old sensitivities and scores unusable."""


def run_sweep(
    config: SweepConfig, *, progress: ProgressReporter | None = None, command: Sequence[str] = ()
) -> SweepResult:
    """Run the sweep that a file describes, or go on with it; see `codesign.config`."""
    return sweep_request(SweepRequest.of(config), progress=progress, command=command)


def sweep_request(
    request: SweepRequest,
    *,
    progress: ProgressReporter | None = None,
    command: Sequence[str] = (),
) -> SweepResult:
    """Run a sweep, or go on with it.

    Raises:
        UserError: anything that the user can mend.
    """
    started = time.monotonic()
    progress = progress or Silent()
    config = request.config
    target = find(config.target, config.threads)
    folder = writable_folder(config.output)
    progress.start("import the model", 2)
    prepared = prepare(request.model, dict(config.dims))
    progress.step(f"parity {prepared.imported.parity.relative:.1e} of the output scale")
    samples = calibration_samples(request.calibration, prepared.model.inputs)
    progress.step(f"{len(prepared.sites.layers)} layers, {len(samples)} calibration samples")
    if not prepared.sites.layers:
        raise UserError(
            "there is nothing in this model that a sweep could compress",
            got=f"{len(prepared.sites.linears)} linear layers and convolutions, none in a section",
            allowed="encoder layers, or linear layers and convolutions between places where all paths meet",
            next=f"codesign compile {config.model}",
        )
    run = str(folder.resolve())
    protocol = Protocol(threads=config.threads)
    with Records(records_path(config)) as records, Rig(target, protocol) as rig:
        records.start(run, " ".join(command), config.tables())
        traces = records.path.parent / "traces"
        workshop = Workshop(
            target, this_device(), rig, records, config.trials, traces, progress,
            fuse=fuse.NAME in config.passes,
        )  # fmt: skip
        result = _Sweep(request, prepared, samples, workshop, folder, started).run()
        records.finish(run)
    return result


def records_path(config: SweepConfig) -> Path:
    """Where measurements are kept: beside the run, so that runs next to each other share them."""
    if config.records:
        return Path(config.records)
    return Path(config.output).resolve().parent / "records.sqlite"


@dataclass
class _Sweep:
    request: SweepRequest
    prepared: Prepared
    samples: list[Arrays]
    workshop: Workshop
    folder: Path
    started: float
    _simulator: Simulator | None = None
    _solver: LayerSolver | None = None

    def run(self) -> SweepResult:
        config, progress = self.request.config, self.workshop.progress
        deadline = math.inf
        if config.budget.minutes is not None:
            deadline = self.started + 60 * config.budget.minutes
        judge = Judge(
            self.prepared,
            self.workshop,
            self.simulator,
            self.folder / BUNDLES / "all",
            self.solver_version,
            config.goal.metric,
            self.solver,
        )
        dense = self._dense(judge)  # before the long work: the user's function may not work
        space = self._space()
        self.workshop.tune(space.book.known.values())
        sensitivities = self._sensitivities(space)
        tables = self._tables(space, sensitivities)
        rounds = Rounds(
            tables, judge, self.request.search_quality, config, deadline, progress, dense
        )
        rounds.run()
        onnx = open_baseline(self.request.model, self.samples[0], config.threads, self.folder)
        try:
            finals = run_finals(judge, dense, rounds.judged, self.request.quality, onnx, progress)
        finally:
            if isinstance(onnx, OnnxBaseline):
                onnx.close()
        return write_outcome(rounds, finals, space, judge, self.folder, self.started)

    @property
    def solver_version(self) -> str:
        """Solvers, calibration data and the rules by which they are used."""
        parts = [digest([n, a.tobytes().hex()]) for s in self.samples for n, a in sorted(s.items())]
        return digest([SOLVER, parts])[:16]

    def simulator(self) -> Simulator:
        """The simulator, made when something is first not in the records."""
        if self._simulator is None:
            self.workshop.progress.say("running the calibration samples")
            target = find(self.request.config.target, cores())
            self._simulator = Simulator(
                self.prepared.model, self.prepared.sites, target, self.samples
            )
        return self._simulator

    def solver(self) -> LayerSolver:
        """The solver, which keeps the Gram matrices of the uncompressed model."""
        if self._solver is None:
            self._solver = LayerSolver(self.prepared.model, self.simulator())
        return self._solver

    def _space(self) -> Space:
        """What may be decided; what does not gain at full width is measured and left out first."""
        workshop, enabled = self.workshop, self.request.config.passes
        model, sites, target = self.prepared.model, self.prepared.sites, workshop.target
        offers = all_offers(sites.layers, target, enabled)
        workshop.progress.start("find what each layer offers", len(sites.layers))
        full = space_of(
            model, sites, target, enabled, at_full_width(offers), workshop.progress.step
        )
        workshop.tune(full.book.known.values(), "tune kernels at full width")
        offers = gainful(offers, full, workshop.kernel_seconds)
        return space_of(model, sites, target, enabled, offers)

    def _sensitivities(self, space: Space) -> Sensitivities:
        version, model = self.solver_version, self.prepared.hash

        def key(candidate: Candidate) -> SensitivityKey:
            return SensitivityKey(model, candidate, "calibration", version)

        records, lengths = self.workshop.records, space.lengths[1:]
        probe = SensitivityProbe(self.simulator, self.solver, records, key, lengths)
        progress = self.workshop.progress
        progress.start("sensitivity of each decision", len(space.layers))
        return Sensitivities(
            probe.layers(space.layers, space.offers, space.droppable, progress.step)
        )

    def _tables(self, space: Space, sensitivities: Sensitivities) -> Tables:
        """What every option costs, on shorter sequences too where there are any."""
        seconds = self.workshop.kernel_seconds
        tables = tables_of(space, sensitivities, seconds)
        if not space.lengths:
            return tables
        self.workshop.progress.say("lowering what is worth it for shorter sequences")
        lengths = lengths_of(self.prepared.model, space, tables, self.workshop.target)
        self.workshop.tune(space.book.known.values(), "tune kernels of shorter sequences")
        return with_lengths(tables, space, lengths, sensitivities, seconds)

    def _dense(self, judge: Judge) -> Judged:
        """The uncompressed model as a candidate like any other."""
        candidate = Candidate()
        built, _ = judge.build(candidate)
        self.workshop.progress.start("the uncompressed model", 1)
        latency = judge.latency(candidate, built, None)
        if not latency.ok:
            raise RuntimeError(f"the uncompressed model does not run: {latency.error}")
        scorer = self.request.search_quality
        (score,) = judge.quality([(candidate, built, 0.0)], scorer.function, scorer.tag)
        self.workshop.progress.step(f"{latency.seconds * 1e3:.2f} ms")
        return Judged(candidate, (), built, latency, score, math.nan, 0)
