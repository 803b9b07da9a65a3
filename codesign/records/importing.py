"""Records of a file added to those of another. Nothing is overwritten, nothing taken twice.

A record is known by its content, so importing a file again adds nothing. An import is one transaction: a line that
is damaged stops it before anything is stored, unless damaged lines are to be left out. Records of other targets and
devices are harmless, for their keys are others; who wants those of one target only says so, and anything else is
refused.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.errors import UserError
from codesign.records import new_file, portable
from codesign.records.bounded import CutShortError, lines
from codesign.records.database import transaction
from codesign.records.exporting import BESIDE, Wanted, export_records, records_file, stored
from codesign.records.portable import Row
from codesign.records.store import Records
from codesign.records.values import LineError

_SHOWN = 5
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Damage:
    """A line that is no record."""

    line: int
    reason: str


@dataclass
class Imported:
    """What an import did, or would do.

    Attributes:
        added, known: rows by table that were new, and that were there already.
        damaged: lines that were left out.
        places: (target, device) -> measurements and trials of it in the file.
    """

    added: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    damaged: list[Damage] = field(default_factory=list)
    places: Counter[tuple[str, str]] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "added": dict(self.added),
            "known": dict(self.known),
            "damaged": [{"line": d.line, "reason": d.reason} for d in self.damaged],
            "places": [
                {"target": target, "device": device, "rows": rows}
                for (target, device), rows in sorted(self.places.items())
            ],
        }


def import_records(
    file: Path,
    into: Path,
    *,
    accepts: Wanted | None = None,
    dry_run: bool = False,
    skip_damaged: bool = False,
) -> Imported:
    """Add the records of a file to those of another.

    Args:
        file: from `export_records`.
        into: a records file, made if it is not there, or the folder of a run, which may be still to come.
        accepts: one row that it does not accept stops the import.
        dry_run: say what it would do.
        skip_damaged: leave damaged lines out instead of stopping.

    Raises:
        UserError: not our format, damaged, or of a target that is not accepted; nothing was stored then.
    """
    path = records_file(into, new=True)
    damaged = _check(file, accepts, skip_damaged)
    if dry_run and not path.exists():
        return _counted(file, damaged)
    with Records(path) as records:
        try:
            with transaction(records._connection, records.path):
                done = _add(records, _rows(file))
                if dry_run:
                    raise _OnlyLookingError
        except _OnlyLookingError:
            pass
    done.damaged = damaged
    return done


def merge_records(sources: Sequence[Path], output: Path) -> Imported:
    """All records of several files in a new one, each once.

    Args:
        sources: records files, folders of runs, or exported files.
        output: ``.sqlite`` for a records file, anything else for lines of JSON.

    Raises:
        UserError: a source cannot be read, or the output exists.
    """
    new_file.refuse_existing(output)
    done = Imported()
    with new_file.beside(output) as folder:
        whole = folder / BESIDE
        for number, source in enumerate(sources):
            file = source
            if source.is_dir() or _is_database(source):
                file = folder / f"{number}.jsonl"
                export_records(source, file)
            part = import_records(file, whole)
            done.added += part.added
            done.known += part.known
            done.places += part.places
        if output.suffix == ".sqlite":
            Records(whole).close()  # also without sources
            new_file.move(whole, output)
        else:
            export_records(whole, output)
    return done


def _is_database(path: Path) -> bool:
    if not path.is_file():
        return path.suffix == ".sqlite"
    with open(path, "rb") as stream:
        return stream.read(len(_SQLITE)) == _SQLITE


class _OnlyLookingError(Exception):
    """Undoes the transaction of a dry run."""


def _check(file: Path, accepts: Wanted | None, skip_damaged: bool) -> list[Damage]:
    """Read all once before anything is stored."""
    damaged: list[Damage] = []
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    promised: dict[str, int] = {}
    last = 0
    try:
        for number, line in lines(file):
            last = number
            if number == 1:
                promised = portable.decode_header(line)
                continue
            try:
                row = portable.decode(line)
            except LineError as error:
                damaged.append(Damage(number, str(error)))
                continue
            counts[row.table] += 1
            if accepts is not None and not accepts(row):
                refused[f"{row.target} on {row.values.get('device')}"] += 1
    except CutShortError as error:
        if not promised:
            raise
        damaged.append(Damage(last + 1, error.got))
    if not last:
        raise UserError("the file of records is empty", got=str(file), allowed="a header and lines")
    lost = sum(promised.values()) - sum(counts.values()) - len(damaged)
    if lost:
        words = f"{lost} records are missing" if lost > 0 else f"{-lost} records are too many"
        damaged.append(Damage(last + 1, f"{words} by the header's count"))
    if damaged and not skip_damaged:
        raise _damaged(file, damaged)
    if refused:
        raise UserError(
            "the file has records of other targets", got=_listed(refused),
            allowed="records of the target asked for",
            next="leave --for-target away: other targets are kept apart by their keys",
        )  # fmt: skip
    return damaged


def _rows(file: Path) -> Iterator[Row]:
    """The sound records of a file that was checked."""
    with contextlib.suppress(CutShortError):
        for number, line in lines(file):
            if number > 1:
                with contextlib.suppress(LineError):
                    yield portable.decode(line)


def _counted(file: Path, damaged: list[Damage]) -> Imported:
    """What an import into nothing would do."""
    done, seen = Imported(damaged=damaged), set[str]()
    for row in _rows(file):
        _count(done, row, new=row.content not in seen)
        seen.add(row.content)
    return done


def _add(records: Records, rows: Iterator[Row]) -> Imported:
    """Store what is not there yet; within a transaction."""
    done = Imported()
    known: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        place = (row.table, row.key)
        if place not in known:
            if row.target is not None:  # first, so that trials that lacked it have a name now
                records._know(portable.measure_key(row))
            known[place] = {r.content for r in stored(records, *place)}
        new = row.content not in known[place]
        if new:
            records._insert(row.table, **row.columns())
            known[place].add(row.content)
        _count(done, row, new)
    return done


def _count(done: Imported, row: Row, new: bool) -> None:
    (done.added if new else done.known)[row.table] += 1
    if row.target is not None:
        done.places[row.target, row.values["device"]] += 1


def _damaged(file: Path, damaged: Sequence[Damage]) -> UserError:
    shown = "; ".join(f"line {d.line}: {d.reason}" for d in damaged[:_SHOWN])
    more = f"; and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
    return UserError(
        f"{len(damaged)} line{'s are' if len(damaged) > 1 else ' is'} damaged, nothing was imported",
        got=f"{file}: {shown}{more}", allowed="whole lines as they were exported",
        next="export the file again, or take the sound lines with --skip-damaged",
    )  # fmt: skip


def _listed(counts: Counter[str]) -> str:
    shown = ", ".join(f"{n} of {name}" for name, n in counts.most_common(_SHOWN))
    return shown + (f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "")
