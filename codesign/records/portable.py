"""Records as lines of JSON, for other machines and people: format ``codesign-records``, version 1.

The first line is the header: ``{"format", "version", "codesign", "rows": {table: count}}``. Every other line is one
record: ``table`` and its values, JSON objects as such; ``key`` is not among them, for it follows from the others and
is computed again. What a run did with records (its sessions and uses) stays at home, as do traces of schedules: a
schedule is its hash, and a tuner finds the schedule of that hash in its own space or not at all.

Everything that is read is checked: no unknown or missing value, no other type, no NaN, no name twice. It is data
only; nothing of it is executed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from codesign.candidate import Candidate, Choice
from codesign.errors import UserError
from codesign.frozen import canonical, digest
from codesign.records.database import TABLES
from codesign.records.entries import EvaluationKey, MeasureKey, SensitivityKey
from codesign.schema import load

FORMAT, VERSION = "codesign-records", 1

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

_JSON = frozenset({"protocol", "versions", "samples", "meta", "quality", "choice"})
_DAY = 86400.0


class LineError(ValueError):
    """A line that is no record; its text says why."""


@dataclass(frozen=True)
class Row:
    """One record: its table, its key, and the values of a line, JSON values decoded."""

    table: str
    key: str
    values: Mapping[str, Any]

    @property
    def content(self) -> str:
        """Equal for equal records, whatever file they are in."""
        return digest([self.table, dict(self.values)])

    @property
    def target(self) -> str | None:
        return self.values.get("target")

    def columns(self) -> dict[str, Any]:
        """As the database has it, without ``id``."""
        return _COLUMNS[self.table](self)


def stored(table: str, values: Mapping[str, Any]) -> Row:
    """A row of a database: ``key`` and `FIELDS`, JSON as text."""
    plain = {
        name: json.loads(values[name]) if name in _JSON else values[name] for name in FIELDS[table]
    }
    return Row(table, values["key"], plain)


def measure_key(row: Row) -> MeasureKey:
    """What the key of a measurement or trial is made of."""
    kind, *names = KEY
    return MeasureKey(**{n: row.values[n] for n in names}, kind=row.values[kind])


def encode(row: Row) -> str:
    """The line of a record."""
    return canonical({"table": row.table, **row.values})


def encode_header(version: str, rows: Mapping[str, int]) -> str:
    """The first line."""
    return canonical({"format": FORMAT, "version": VERSION, "codesign": version, "rows": rows})


def decode_header(line: bytes) -> dict[str, int]:
    """Rows of each table that the file says it has.

    Raises:
        UserError: not our format, or of a newer version.
    """
    try:
        found = _parsed(line)
    except LineError:
        found = {}
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(
            "this is no file of records", got=repr(line[:60]), allowed=f"the format {FORMAT}",
            next="codesign records export RUN FILE writes one",
        )  # fmt: skip
    if found.get("version") != VERSION:
        raise UserError(
            "the file of records is of another version", got=f"{found.get('version')!r}",
            allowed=f"version {VERSION}", next="update codesign, or export it with this version",
        )  # fmt: skip
    rows = found.get("rows")
    if not isinstance(rows, dict) or set(rows) - set(TABLES):
        raise UserError("the header of the file of records is damaged", got=repr(line[:200]))
    if not all(type(n) is int and n >= 0 for n in rows.values()):
        raise UserError("the header of the file of records is damaged", got=repr(line[:200]))
    return {table: rows.get(table, 0) for table in TABLES}


def decode(line: bytes) -> Row:
    """The record of a line; raises LineError."""
    data = _parsed(line)
    table = data.pop("table", None) if isinstance(data, dict) else None
    if not isinstance(table, str) or table not in FIELDS:
        raise LineError(f"its table is {table!r}, not one of {', '.join(FIELDS)}")
    missing = [name for name in FIELDS[table] if name not in data]
    if missing:
        raise LineError(f"it lacks {', '.join(missing)}")
    try:
        return _READERS[table](data)
    except (UserError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LineError(str(error).replace("\n ", ";")) from error


# the values of each table ----------------------------------------------------------------------------


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
            load(_Transfer, named, "meta.transfer")


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


def _read_measurement(data: Mapping[str, Any]) -> Row:
    found = load(_Timed, data, "measurement")
    return Row("measurements", found.check().digest, _values("measurements", data))


def _read_trial(data: Mapping[str, Any]) -> Row:
    found = load(_Trial, data, "trial")
    return Row("trials", found.check().digest, _values("trials", data))


def _read_evaluation(data: Mapping[str, Any]) -> Row:
    found = load(_Evaluation, data, "evaluation")
    _check_created(found.created)
    key = EvaluationKey(found.model, found.candidate, found.dataset, found.solver)
    return Row("evaluations", key.digest, _values("evaluations", data))


def _read_sensitivity(data: Mapping[str, Any]) -> Row:
    found = load(_Sensitivity, data, "sensitivity")
    _check_created(found.created)
    key = SensitivityKey(found.model, Candidate(found.choice), found.dataset, found.solver)
    values = _values("sensitivities", data)
    return Row("sensitivities", key.digest, {**values, "choice": json.loads(key.choices_text)})


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Row]] = {
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


# the columns of each table -----------------------------------------------------------------------------


def _plain_columns(row: Row) -> dict[str, Any]:
    values = row.values
    texts = {k: canonical(v) if k in _JSON else v for k, v in values.items()}
    return {"key": row.key, **texts}


def _measurement_columns(row: Row) -> dict[str, Any]:
    protocol = digest(row.values["protocol"])
    return _plain_columns(row) | {"protocol_hash": protocol}


def _trial_columns(row: Row) -> dict[str, Any]:
    return {k: v for k, v in _plain_columns(row).items() if k not in KEY}


def _sensitivity_columns(row: Row) -> dict[str, Any]:
    sites = " ".join(dict.fromkeys(choice["site"] for choice in row.values["choice"]))
    return _plain_columns(row) | {"site": sites}


_COLUMNS: Mapping[str, Callable[[Row], dict[str, Any]]] = {
    "measurements": _measurement_columns,
    "trials": _trial_columns,
    "evaluations": _plain_columns,
    "sensitivities": _sensitivity_columns,
}


def _check_created(created: float) -> None:
    """The newest record under a key counts, so none may be of the future."""
    if not 0 <= created <= time.time() + _DAY:
        raise LineError(f"created is {created}: not a time until now")


def _parsed(line: bytes) -> Any:
    """Strict JSON: no NaN, no infinity, no name twice, no text that is none."""
    try:
        text = line.decode()
        found = json.loads(
            text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once
        )
        canonical(found).encode()
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise LineError(f"it is no JSON of ours: {error}") from error
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found
