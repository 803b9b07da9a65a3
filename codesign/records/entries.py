"""What is kept, and under which key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from codesign.candidate import Candidate
from codesign.frozen import FrozenMap, canonical, digest
from codesign.measurement import Measurement

Kind = Literal["kernel", "bundle", "baseline"]
"""What was timed: one fused kernel, a whole candidate, or something to compare with."""


@dataclass(frozen=True)
class MeasureKey:
    """Under equal keys a measurement is never made again.

    Attributes:
        kernel_hash: structural hash of the scheduled kernel; for a bundle the hash of its library
            and weights, for a baseline its name and model hash.
        target: canonical text of the compile target, threads included.
        device: identity of the machine that ran it.
        protocol: warm-ups, repeats, threads, affinity, cache state: all that changes the number.
        versions: of the compiler and runtime.
        kind: what was timed.
    """

    kernel_hash: str
    target: str
    device: str
    protocol: Mapping[str, Any]
    versions: Mapping[str, str]
    kind: Kind = "kernel"

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", FrozenMap(self.protocol))
        object.__setattr__(self, "versions", FrozenMap(self.versions))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all parts."""
        return digest(
            [self.kind, self.kernel_hash, self.target, self.device, self.protocol, self.versions]
        )


@dataclass(frozen=True)
class Trial:
    """One schedule tried while tuning a kernel: its decisions as JSON text, and its time."""

    schedule: str
    measurement: Measurement


@dataclass(frozen=True)
class Elsewhere:
    """What is known of a kernel under another key: another device, target, protocol or version.

    Attributes:
        key: the other one.
        trials: oldest first.
        decisions: schedule -> what was decided in it, whatever the target; of those known.
    """

    key: MeasureKey
    trials: tuple[Trial, ...]
    decisions: Mapping[str, str] = field(default_factory=FrozenMap)


@dataclass(frozen=True)
class EvaluationKey:
    """Under equal keys a candidate is never evaluated again.

    Attributes:
        model: hash of the uncompressed model, weights included.
        candidate: `Candidate.key`.
        dataset: tag of the quality function and the data behind it.
        solver: version of the compression solvers and of their calibration data.
    """

    model: str
    candidate: str
    dataset: str
    solver: str

    @cached_property
    def digest(self) -> str:
        return digest([self.model, self.candidate, self.dataset, self.solver])


@dataclass(frozen=True)
class Evaluation:
    """Quality of a candidate.

    Attributes:
        quality: name -> value, as the user's function returned it.
        output_error: relative error of the outputs against the uncompressed model.
        error: what the quality function raised; None if it worked.
    """

    quality: Mapping[str, float] = field(default_factory=FrozenMap)
    output_error: float | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class SensitivityKey:
    """What some choices, alone in an otherwise dense model, do to its outputs, or to its size.

    Attributes:
        model: hash of the uncompressed model, weights included.
        choices: usually one.
        dataset: tag of the calibration data, or of how weights are stored where it is of size.
        solver: version of the compression solvers.
    """

    model: str
    choices: Candidate
    dataset: str
    solver: str

    @property
    def sites(self) -> str:
        """The sites, for people who look into the file."""
        return " ".join(dict.fromkeys(choice.site for choice in self.choices))

    @property
    def choices_text(self) -> str:
        """Canonical JSON of the choices."""
        return canonical([choice.plain() for choice in self.choices])

    @cached_property
    def digest(self) -> str:
        return digest([self.model, self.choices.key, self.dataset, self.solver])


@dataclass(frozen=True)
class RunInfo:
    """A run as the records know it; ``finished`` is None while it goes on or was killed."""

    id: str
    command: str
    goal: Mapping[str, Any]
    started: float
    finished: float | None
    sessions: int


@dataclass(frozen=True)
class Counts:
    """Records of a run by kind (kernel, bundle, baseline, trial, evaluation, sensitivity).

    Attributes:
        made: stored by the run.
        reused: taken from earlier, whether another run or an earlier session of this run made it.
        again: made although the same key had been measured without an error; 0 unless asked for.
    """

    made: Mapping[str, int]
    reused: Mapping[str, int]
    again: Mapping[str, int]
