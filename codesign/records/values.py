"""The values of a record's line, each checked: names, types, ranges, and what its key is made of."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from codesign.candidate import Candidate, Choice
from codesign.errors import UserError
from codesign.records.entries import EvaluationKey, MeasureKey, SensitivityKey
from codesign.schema import load

KINDS = ("kernel", "bundle", "baseline")

KEY = ("kind", "kernel_hash", "target", "device", "protocol", "versions")
_TIMES = ("seconds", "lo", "hi", "samples", "ratio", "load", "meta", "error", "created")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "measurements": (*KEY, *_TIMES),
    "trials": (*KEY, "schedule", *_TIMES),
    "evaluations": (
        "model", "candidate", "dataset", "solver", "quality", "output_error", "error", "created",
    ),
    "sensitivities": ("model", "choice", "dataset", "solver", "value", "created"),
}  # fmt: skip
"""What a line of each table holds beside ``table``."""

Read = tuple[str, dict[str, Any]]
"""Digest of the key, and the values as a database gives them back."""

_DAY = 86400.0


_REASON = 200


class LineError(ValueError):
    """A line that is no record; its text says why, short and without what a terminal would obey."""

    def __init__(self, reason: str) -> None:
        shown = "".join(c if c.isprintable() else "?" for c in reason[: _REASON + 1])
        super().__init__(shown if len(shown) <= _REASON else shown[: _REASON - 3] + "...")


def read(table: str, data: Mapping[str, Any]) -> Read:
    """Check the values of a line of a table; raises LineError."""
    missing = [name for name in FIELDS[table] if name not in data]
    if missing:
        raise LineError(f"it lacks {', '.join(missing)}")
    try:
        return _READERS[table](data)
    except (UserError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LineError(" ".join(str(error).split())) from error


@dataclass(frozen=True)
class _Timed:
    kind: str
    kernel_hash: str
    target: str
    device: str
    protocol: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: float | None
    lo: float | None
    hi: float | None
    samples: tuple[float, ...]
    ratio: float | None
    load: float
    meta: Mapping[str, Any]
    error: str | None
    created: float

    def check(self) -> MeasureKey:
        if self.kind not in KINDS:
            raise LineError(f"kind is {self.kind!r}, not one of {', '.join(KINDS)}")
        if (self.error is None) == (self.seconds is None):
            raise LineError("it has neither a time nor an error, or both")
        times = [t for t in (self.seconds, self.lo, self.hi, *self.samples) if t is not None]
        if any(t <= 0 for t in times) or self.load < 0:
            raise LineError("a time or a load is negative")
        _check_created(self.created)
        _check_names(self.kernel_hash, self.target, self.device)
        load(_Meta, {k: v for k, v in self.meta.items() if k in _META}, "meta")
        return MeasureKey(
            self.kernel_hash, self.target, self.device, self.protocol, self.versions,
            self.kind,  # type: ignore[arg-type]
        )  # fmt: skip


@dataclass(frozen=True)
class _Trial(_Timed):
    schedule: str


@dataclass(frozen=True)
class _Transfer:
    default: int
    warm: int
    exact: bool
    sources: tuple[str, ...]


@dataclass(frozen=True)
class _Meta:
    """What the tuner reads of a measurement's meta, and people of its flags: of these types or not at all."""

    schedule: str = ""
    exhausted: bool = False
    default_ratio: float | None = None
    probes: tuple[tuple[Any, ...], ...] = ()
    decisions: Mapping[str, str] | None = None
    transfer: Mapping[str, Any] | None = None
    flags: tuple[str, ...] = ()
    device: str | None = None

    def __post_init__(self) -> None:
        for value in (v for probe in self.probes for v in probe):
            if value is not None and type(value) not in (int, float):
                raise LineError(f"meta.probes holds {value!r}, not numbers")
        if self.transfer is not None:
            named = {("sources" if k == "from" else k): v for k, v in self.transfer.items()}
            _check_names(*load(_Transfer, named, "meta.transfer").sources)
        _check_names(self.device or "", *self.flags)


_META = frozenset(_Meta.__dataclass_fields__)


@dataclass(frozen=True)
class _Evaluation:
    model: str
    candidate: str
    dataset: str
    solver: str
    quality: Mapping[str, float]
    output_error: float | None
    error: str | None
    created: float


@dataclass(frozen=True)
class _Sensitivity:
    model: str
    choice: tuple[Choice, ...]
    dataset: str
    solver: str
    value: float
    created: float


def _read_measurement(data: Mapping[str, Any]) -> Read:
    found = load(_Timed, data, "measurement")
    return found.check().digest, _values("measurements", data)


def _read_trial(data: Mapping[str, Any]) -> Read:
    found = load(_Trial, data, "trial")
    return found.check().digest, _values("trials", data)


def _read_evaluation(data: Mapping[str, Any]) -> Read:
    found = load(_Evaluation, data, "evaluation")
    _check_created(found.created)
    key = EvaluationKey(found.model, found.candidate, found.dataset, found.solver)
    return key.digest, _values("evaluations", data)


def _read_sensitivity(data: Mapping[str, Any]) -> Read:
    found = load(_Sensitivity, data, "sensitivity")
    _check_created(found.created)
    key = SensitivityKey(found.model, Candidate(found.choice), found.dataset, found.solver)
    values = _values("sensitivities", data)
    return key.digest, {**values, "choice": json.loads(key.choices_text)}


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Read]] = {
    "measurements": _read_measurement,
    "trials": _read_trial,
    "evaluations": _read_evaluation,
    "sensitivities": _read_sensitivity,
}

_REAL = frozenset(
    {"seconds", "lo", "hi", "ratio", "load", "created", "output_error", "value"}
)  # what SQLite gives back as a float


def _values(table: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values, as a database gives them back."""
    found = dict(data)
    for name in _REAL & found.keys():
        found[name] = None if found[name] is None else float(found[name])
    return {name: found[name] for name in FIELDS[table]}


def _check_created(created: float) -> None:
    """The newest record under a key counts, so none may be of the future."""
    if not 0 <= created <= time.time() + _DAY:
        raise LineError(f"created is {created}: not a time until now")


def _check_names(*names: str) -> None:
    """Names are printed in tables: nothing in them may move a cursor."""
    for name in names:
        if not name.isprintable():
            raise LineError(f"a name holds characters that cannot be printed: {name!r}")
