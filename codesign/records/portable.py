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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from codesign.errors import UserError
from codesign.frozen import canonical, digest
from codesign.records.database import TABLES
from codesign.records.entries import MeasureKey
from codesign.records.values import FIELDS, KEY, LineError, read

FORMAT, VERSION = "codesign-records", 1

_JSON = frozenset({"protocol", "versions", "samples", "meta", "quality", "choice"})


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
    return Row(table, *read(table, data))


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
