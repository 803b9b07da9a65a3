"""Where candidates become bundles with a latency: kernels tuned once, models built and measured."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tvm import tirx

from codesign.build import build_model
from codesign.bundle import Bundle, Contents, write_bundle
from codesign.fusion import Choice, KernelChain, Planner, Unit
from codesign.kernels import Kernel, default_schedules, kernel_hash, kernels, schedule
from codesign.measure import Rig
from codesign.measurement import Measurement, median
from codesign.progress import ProgressReporter
from codesign.records import Records
from codesign.station import Station
from codesign.tune import UNMEASURED, Tuned, tune, untuned
from codesign.worker import Failure
from passes.model import Model
from targets.errors import CodesignError
from targets.target import Target


class BuildError(CodesignError):
    """The compiler could not build a model; that is ours, or the machine's."""

    exit_code = 1


class OutOfTimeError(Exception):
    """Work that was to be done until some time did not end; what was measured is in the records."""


@dataclass(frozen=True)
class Built:
    """A model built into a bundle.

    Attributes:
        kernels: hash -> calls of one inference.
        kernel_seconds: sum of the measured times of kernels times calls.
        fusions: what was decided for each chain of operators, as JSON.
        twin: the same for this machine, where something else measures.
    """

    bundle: Bundle
    kernels: Mapping[str, int]
    kernel_seconds: float
    fusions: tuple[Mapping[str, Any], ...] = ()
    twin: Bundle | None = None

    @property
    def runs_here(self) -> Bundle:
        """What computes on this machine what the bundle computes where it is measured."""
        return self.twin or self.bundle

    @property
    def calls(self) -> int:
        """Kernel calls of one inference."""
        return sum(self.kernels.values())


def twin_of(path: Path) -> Path:
    """Where the twin of a bundle lies."""
    return path.parent / "twins" / path.name


@dataclass
class Workshop:
    """Tunes, builds and measures for one target on one device.

    Attributes:
        station: what measures.
        trials: schedules tried for each kernel.
        folder: of MetaSchedule's traces.
        fuse: whether measurement decides what becomes one kernel; otherwise relax's rule does.
        tuned: the best schedule of every kernel met so far.
        chains: every chain met so far, by hash.
        parting: (name of a chain, where a group of relax is parted) -> whether that gained where it was
            first tried. Parts are kernels to tune, so what did not gain is not tried in other shapes.
    """

    station: Station
    records: Records
    trials: int
    folder: Path
    progress: ProgressReporter
    fuse: bool = True
    tuned: dict[str, Tuned] = field(default_factory=dict)
    names: dict[str, Kernel] = field(default_factory=dict)
    chains: dict[str, KernelChain] = field(default_factory=dict)
    parting: dict[tuple[str, int], bool] = field(default_factory=dict)
    _fastest: dict[str, float] = field(default_factory=dict)
    _reference: float = 0.0
    _ends: float = math.inf
    _pace: float = 0.0

    @property
    def target(self) -> Target:
        return self.station.target

    @property
    def device(self) -> str:
        return self.station.device

    @property
    def rig(self) -> Rig:
        return self.station.rig

    @contextmanager
    def until(self, ends: float) -> Iterator[None]:
        """Leave what is done within at its next step once it is later than ``ends`` (`time.monotonic`).

        Raises:
            OutOfTimeError: it was later, or kernels to tune would take longer at the usual pace.
        """
        told, began = self.progress, time.monotonic()
        self.progress, self._ends = _Until(told, ends, ends - began), ends
        try:
            yield
        finally:
            self.progress, self._ends = told, math.inf

    def tune(self, wanted: Iterable[Unit], phase: str = "tune kernels") -> None:
        """Find the best schedule of each kernel that is new, and measure it; of chains, of all parts."""
        units = list(wanted)
        chains = [u for u in units if isinstance(u, KernelChain)]
        kernels = [u for u in units if isinstance(u, Kernel)]
        self.chains |= {chain.hash: chain for chain in chains}
        first: dict[tuple[str, int], KernelChain] = {}
        for chain in chains:
            for cut in chain.cuts:
                if (chain.name, cut) not in self.parting:
                    first.setdefault((chain.name, cut), chain)
        parts = [k for (_, cut), chain in first.items() for k in chain.kernels([cut])]
        whole = [k for chain in chains for k in chain.kernels()]
        self._tune([*kernels, *whole, *parts], phase)
        for (name, cut), chain in first.items():
            best = chain.best(self._comparable).parts
            self.parting[name, cut] = any(start == cut for start, _ in best)
        gaining = [(c, [at for at in c.cuts if self.parting[c.name, at]]) for c in chains]
        self._tune([k for c, cuts in gaining if cuts for k in c.kernels(cuts)], phase)

    def _tune(self, wanted: Iterable[Kernel], phase: str) -> None:
        new = {k.hash: k for k in wanted if k.hash not in self.tuned}
        if not new:
            return
        if not self.station.measures:
            self.tuned |= {h: untuned(kernel, self.target) for h, kernel in new.items()}
            self.names |= new
            return
        began, started = time.monotonic(), False
        if began + len(new) * self._pace > self._ends:
            raise OutOfTimeError(
                f"{len(new)} kernels to measure take about {len(new) * self._pace:.0f} s, "
                f"{max(self._ends - began, 0):.0f} s are its share of the budget"
            )

        def report(done: int, total: int, name: str) -> None:
            nonlocal started
            if not started:
                self.progress.start(phase, total)
                started = True
            self.progress.step(name)

        self.tuned |= tune(
            list(new.values()),
            self.target,
            self.device,
            self.rig,
            self.records,
            max(self.trials, 1),  # the default is always measured
            self.folder,
            progress=report,
        )
        self.names |= new
        self._pace = (time.monotonic() - began) / len(new)
        self._fastest.clear()
        self._reference = 0.0

    def choice(self, chain: str) -> Choice:
        """The fastest partition of a chain, as far as its parts were measured."""
        return self.chains[chain].best(self._comparable)

    def _comparable(self, kernel: str) -> float:
        """Seconds of a kernel, free of the machine's drift; infinite if it was not measured."""
        measurement = self.tuned[kernel].measurement if kernel in self.tuned else None
        if measurement is None or not measurement.ok:
            return float("inf")
        return measurement.ratio * self._reference_seconds

    @property
    def _reference_seconds(self) -> float:
        """What the reference kernel takes, over all that was measured."""
        if not self._reference:
            sound = [t.measurement for t in self.tuned.values() if t.measurement.ok]
            self._reference = median([m.quiet / m.ratio for m in sound])
        return self._reference

    def seconds(self, kernel: str) -> float:
        """Measured time of a kernel, or of the fastest partition of a chain; infinite if none ran."""
        if kernel in self.chains:
            if kernel not in self._fastest:
                parts = self.choice(kernel).counts()
                self._fastest[kernel] = sum(n * self.seconds(k) for k, n in parts.items())
            return self._fastest[kernel]
        return self._comparable(kernel)

    def kernel_seconds(self, counts: Mapping[str, int]) -> float:
        """Sum of measured times times calls."""
        return sum(n * self.seconds(h) for h, n in counts.items() if n)

    def build(
        self,
        model: Model,
        path: Path,
        choices: Sequence[Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> Built:
        """Lower, tune, build and bundle a canonical or rewritten model.

        Raises:
            BuildError: the worker could not build it.
            UserError: the bundle cannot be written.
        """
        plan = Planner(self.target, self.fuse).plan(model)
        self.tune(plan.units(), "tune new kernels")
        lowered, chosen = plan.fused(self._comparable)
        found = kernels(lowered)
        fusions = tuple(choice.to_json() for choice in chosen if self.station.measures)
        module = schedule(lowered, self._scheduled)
        library = self.rig.folder / f"{path.name}.so"
        result = build_model(self.rig.worker, module, self.target, library)
        if isinstance(result, Failure):
            raise BuildError("the model could not be built", got=str(result)[-2000:])
        counts = Counter({k.hash: k.count for k in found})
        contents = Contents(
            model.name,
            model.inputs,
            model.outputs,
            self.target,
            choices,
            extra={
                **(extra or {}),
                "kernels": dict(counts),
                "kernel_seconds": self.kernel_seconds(counts) if self.station.measures else None,
                "fusions": list(fusions),
            },
        )
        bundle = write_bundle(path, library, lowered.weights, contents)
        library.unlink(missing_ok=True)
        twin = None if self.station.told is None else self._twin(lowered, path, contents)
        return Built(bundle, counts, self.kernel_seconds(counts), fusions, twin)

    def _twin(self, lowered: Model, path: Path, contents: Contents) -> Bundle:
        """The same kernels on the same weights, scheduled for this machine: it computes the same here."""
        here = self.station.here
        library = self.rig.folder / f"{path.name}.twin.so"
        module = schedule(lowered, default_schedules(here))
        result = build_model(self.rig.worker, module, here, library)
        if isinstance(result, Failure):
            raise BuildError("the model's twin could not be built", got=str(result)[-2000:])
        twin = write_bundle(twin_of(path), library, lowered.weights, replace(contents, target=here))
        library.unlink(missing_ok=True)
        return twin

    def measure(self, paths: Sequence[Path], reference: Path | None = None) -> list[Measurement]:
        """Latency of bundles, interleaved with each other and the reference."""
        if not self.station.measures:
            return [Measurement.failed(UNMEASURED)] * len(paths)
        return self.rig.bundles(paths, reference)

    def _scheduled(self, func: tirx.PrimFunc) -> tirx.PrimFunc:
        return self.tuned[kernel_hash(func)].func


class _Until:
    """A reporter that ends the work which tells it of a step too late."""

    def __init__(self, told: ProgressReporter, ends: float, seconds: float) -> None:
        self._told, self._ends, self._seconds = told, ends, seconds

    def start(self, phase: str, total: int) -> None:
        self._told.start(phase, total)

    def step(self, note: str = "") -> None:
        self._told.step(note)
        if time.monotonic() > self._ends:
            raise OutOfTimeError(
                f"it was not measured within its share of the budget, {self._seconds:.0f} s; "
                "the same command goes on with it"
            )

    def say(self, text: str) -> None:
        self._told.say(text)
