"""The loop: tables of measured latency and measured sensitivity, search, build, measure, learn, again.

1. import         the model, its sites, the calibration samples
2. dense          the uncompressed model, built, measured and evaluated
3. table          what may be decided; the kernels that each decision leads to, tuned once for this
                  target and device; what each single decision does to the outputs
4. further bases  the same for the model with fewer channels, between the rounds
5. rounds         search, solve, build, measure, evaluate; the tables learn from what came out
6. finals         held-out quality, and latency in lock-step with the baselines
7. outcome        frontier.json, report.html, frontier.png, bundles

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
from codesign.errors import UserError
from codesign.files import writable_folder
from codesign.frozen import digest
from codesign.loop.baseline import open_baseline
from codesign.loop.bases import Base, Bases
from codesign.loop.candidates import Judge, Judged
from codesign.loop.finals import run_finals
from codesign.loop.further import FurtherBases
from codesign.loop.onnx_baseline import OnnxBaseline
from codesign.loop.outcome import BUNDLES, SweepResult, write_outcome
from codesign.loop.request import SweepRequest
from codesign.loop.rounds import Rounds
from codesign.loop.tabling import Tabler
from codesign.loop.workshop import Workshop
from codesign.machine import cores
from codesign.prepare import Prepared, prepare
from codesign.progress import ProgressReporter, Silent
from codesign.records import Records
from codesign.simulate.graph import Dataflow
from codesign.simulate.segments import cut
from codesign.station import open_station
from codesign.user_code import Arrays, calibration_samples
from passes import fuse

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
    folder = writable_folder(config.output)
    with (
        open_station(config.where, say=progress.say) as station,
        Records(records_path(config)) as records,
    ):
        progress.start("import the model", 2)
        prepared = prepare(request.model, dict(config.dims))
        progress.step(f"parity {prepared.imported.parity.relative:.1e} of the output scale")
        samples = calibration_samples(request.calibration, prepared.model.inputs)
        progress.step(f"{len(prepared.sites.layers)} layers, {len(samples)} calibration samples")
        _check_sections(prepared, config.model)
        run = str(folder.resolve())
        records.start(run, " ".join(command), config.tables())
        traces = records.path.parent / "traces"
        workshop = Workshop(
            station, records, config.trials, traces, progress, fuse=fuse.NAME in config.passes
        )
        result = _Sweep(request, prepared, samples, workshop, folder, started).run()
        records.finish(run)
    return result


def _check_sections(prepared: Prepared, model: str) -> None:
    """Raise UserError if the model has no sections, or none that can be looked at one after the other."""
    sites = prepared.sites
    got = f"{len(sites.linears)} linear layers and convolutions, none in a section"
    if sites.layers:
        segments = cut(Dataflow(prepared.model), sites)
        if any(segment.is_section for segment in segments):
            return
        got = f"{len(sites.layers)} layers of which values within are outputs, or are read further down"
    raise UserError(
        "there is nothing in this model that a sweep could compress",
        got=got,
        allowed="encoder layers in a row, or linear layers and convolutions between places where all paths meet",
        next=f"codesign compile {model}",
    )


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

    def run(self) -> SweepResult:
        config, progress = self.request.config, self.workshop.progress
        deadline = math.inf
        if config.budget.minutes is not None:
            deadline = self.started + 60 * config.budget.minutes
        version = self.solver_version
        bases = Bases([self._base()])
        judge = Judge(
            self.prepared,
            bases,
            self.workshop,
            self.folder / BUNDLES / "all",
            version,
            config.goal.metric,
        )
        dense = self._dense(judge)  # before the long work: the user's function may not work
        tabler = Tabler(
            self.workshop,
            config.used_passes,
            self.prepared.hash,
            version,
            dense.built.bundle.size_bytes if config.goal.sized else None,
        )
        first = tabler.first(bases.first)
        further = FurtherBases(bases, tabler, first, deadline)
        rounds = Rounds(
            [first],
            further.next,
            judge,
            self.request.search_quality,
            config,
            deadline,
            progress,
            dense,
        )
        rounds.run()
        onnx: OnnxBaseline | str = "it would run on this machine, not on the device"
        if self.workshop.station.told is None:
            onnx = open_baseline(self.request.model, self.samples[0], config.threads, self.folder)
        try:
            scorer, sized = self.request.quality, config.goal.sized
            finals = run_finals(judge, dense, rounds.judged, scorer, onnx, progress, sized)
        finally:
            if isinstance(onnx, OnnxBaseline):
                onnx.close()
        return write_outcome(rounds, finals, further, judge, self.folder, self.started)

    @property
    def solver_version(self) -> str:
        """Solvers, calibration data and the rules by which they are used."""
        parts = [digest([n, a.tobytes().hex()]) for s in self.samples for n, a in sorted(s.items())]
        return digest([SOLVER, parts])[:16]

    def _base(self) -> Base:
        """The model itself."""
        return Base(
            self.prepared.model,
            self.prepared.sites,
            self.workshop.station.here.with_threads(cores()),
            self.samples,
            say=self.workshop.progress.say,
        )

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
