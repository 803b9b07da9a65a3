"""Where candidates become bundles with a latency: kernels tuned once, models built and measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvm import tirx

from codesign.build import build_model
from codesign.bundle import Bundle, Contents, write_bundle
from codesign.kernels import Kernel, kernel_hash, kernels, schedule
from codesign.measure import Rig
from codesign.measurement import Measurement
from codesign.progress import ProgressReporter
from codesign.records import Records
from codesign.tune import Tuned, tune
from codesign.worker import Failure
from passes.lower import lower
from passes.model import Model
from targets.errors import CodesignError
from targets.target import Target


class BuildError(CodesignError):
    """The compiler could not build a model; that is ours, or the machine's."""

    exit_code = 1


@dataclass(frozen=True)
class Built:
    """A model built into a bundle.

    Attributes:
        kernels: hash -> calls of one inference.
        kernel_seconds: sum of the measured medians times calls.
    """

    bundle: Bundle
    kernels: Mapping[str, int]
    kernel_seconds: float

    @property
    def calls(self) -> int:
        """Kernel calls of one inference."""
        return sum(self.kernels.values())


@dataclass
class Workshop:
    """Tunes, builds and measures for one target on one device.

    Attributes:
        trials: schedules tried for each kernel.
        folder: of MetaSchedule's traces.
        tuned: the best schedule of every kernel met so far.
    """

    target: Target
    device: str
    rig: Rig
    records: Records
    trials: int
    folder: Path
    progress: ProgressReporter
    tuned: dict[str, Tuned] = field(default_factory=dict)
    names: dict[str, Kernel] = field(default_factory=dict)

    def tune(self, wanted: Iterable[Kernel], phase: str = "tune kernels") -> None:
        """Find the best schedule of each kernel that is new, and measure it."""
        new = {k.hash: k for k in wanted if k.hash not in self.tuned}
        if not new:
            return
        started = False

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

    def seconds(self, kernel: str) -> float:
        """Measured median of a kernel; infinite if no schedule of it ran."""
        measurement = self.tuned[kernel].measurement
        return measurement.seconds if measurement.ok else float("inf")

    def kernel_seconds(self, counts: Mapping[str, int]) -> float:
        """Sum of medians times calls."""
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
        lowered = lower(model, self.target)
        found = kernels(lowered)
        self.tune(found, "tune new kernels")
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
                "kernel_seconds": self.kernel_seconds(counts),
            },
        )
        bundle = write_bundle(path, library, lowered.weights, contents)
        library.unlink(missing_ok=True)
        return Built(bundle, counts, self.kernel_seconds(counts))

    def measure(self, paths: Sequence[Path], reference: Path | None = None) -> list[Measurement]:
        """Latency of bundles, interleaved with each other and the reference."""
        return self.rig.bundles(paths, reference)

    def _scheduled(self, func: tirx.PrimFunc) -> tirx.PrimFunc:
        return self.tuned[kernel_hash(func)].func
