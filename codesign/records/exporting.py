"""Records written as lines of JSON; see `codesign.records.portable`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from codesign.errors import UserError
from codesign.records import new_file, portable
from codesign.records.database import TABLES, explained
from codesign.records.portable import Row
from codesign.records.store import Records
from codesign.records.values import FIELDS, KEY
from codesign.versions import installed

BESIDE = "records.sqlite"
"""Name of the records file beside the folder of a run."""

Wanted = Callable[[Row], bool]


@dataclass(frozen=True)
class Exported:
    """What was written: rows by table, and trials left out since nothing tells what their kernel is."""

    rows: Mapping[str, int]
    nameless: int


def records_file(path: Path, new: bool = False) -> Path:
    """The records file that a path means: itself, the one in a folder, or the one beside the folder of a run.

    Args:
        new: the folder of a run that is still to come will do.

    Raises:
        UserError: it is none of these.
    """
    if path.is_dir():
        inside = path / BESIDE
        return inside if inside.is_file() else path.resolve().parent / BESIDE
    if path.suffix == ".sqlite" or path.is_file():
        return path
    if new and not path.suffix and path.parent.is_dir():
        return path.parent.resolve() / BESIDE
    raise UserError(
        "there are no such records", got=str(path),
        allowed="a records file (NAME.sqlite) or the folder of a sweep",
        next="check the path" if new else "codesign records export makes a file of those of a run",
    )  # fmt: skip


def export_records(source: Path, file: Path, wanted: Wanted | None = None) -> Exported:
    """Write the records of a file, or those wanted, as lines of JSON; gzipped if ``file`` ends with ``.gz``.

    Raises:
        UserError: no records there, or the file exists or cannot be written.
    """
    path = records_file(source)
    if not path.exists():
        raise UserError("there are no records to export", got=str(path), allowed="a records file")
    with Records(path) as records, explained(path):
        records._connection.execute("BEGIN")  # all of one moment
        try:
            return _write(records, file, wanted or (lambda row: True))
        finally:
            records._connection.execute("ROLLBACK")


def _write(records: Records, file: Path, wanted: Wanted) -> Exported:
    counts = {table: sum(1 for row in stored(records, table) if wanted(row)) for table in TABLES}
    version = installed("codesign") or "unknown"
    with new_file.new_lines(file) as stream:
        stream(portable.encode_header(version, counts))
        for table in TABLES:
            for row in stored(records, table):
                if wanted(row):
                    stream(portable.encode(row))
    return Exported(counts, _nameless(records))


def stored(records: Records, table: str, key: str | None = None) -> Iterator[Row]:
    """The rows of a table, or those under one key, oldest first; of trials those whose key is known."""
    names, trials = ("key", *FIELDS[table]), table == "trials"
    columns = ", ".join(f"{'k' if trials and n in KEY else 'r'}.{n}" for n in names)
    query = f"SELECT {columns} FROM {table} r"
    query += " JOIN keys k ON k.key = r.key" if trials else ""
    query += " ORDER BY r.id" if key is None else " WHERE r.key = ? ORDER BY r.id"
    for values in records._connection.execute(query, () if key is None else (key,)):
        yield portable.stored(table, dict(zip(names, values, strict=True)))


def _nameless(records: Records) -> int:
    query = "SELECT count(*) FROM trials WHERE key NOT IN (SELECT key FROM keys)"
    return int(records._rows(query)[0][0])
