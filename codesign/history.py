"""What a run measured, and what it took from earlier runs or from its own earlier sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from codesign.errors import UserError
from codesign.records import Records
from codesign.records.census import census
from codesign.records.exporting import records_file
from codesign.records.transfer import Transfer, all_transfers
from codesign.report.data import FILE
from codesign.schema import dump
from codesign.target_text import readable


def run_counts(run: str | Path, records: str | Path | None = None) -> dict[str, Any]:
    """Counts by kind: made and reused by all sessions of a run, and by its last one; and by device.

    ``again`` counts measurements made although the same one was stored already: it stays empty. ``devices`` are of
    the whole file, whichever run made them.

    Args:
        run: the folder of a sweep.
        records: the records file; default: the one beside the run.

    Raises:
        UserError: no such run.
    """
    folder = Path(run).resolve()
    path = Path(records) if records else folder.parent / "records.sqlite"
    if not path.exists():
        raise UserError(
            "there are no records beside this run",
            got=str(path),
            allowed=f"the folder of a sweep, which holds {FILE}",
        )
    with Records(path) as found:
        info = found.run(str(folder))
        if info is None:
            raise UserError(
                "the records know no such run", got=str(folder), allowed=", ".join(found.runs())
            )
        return {
            "run": info.id,
            "sessions": info.sessions,
            "finished": info.finished is not None,
            **dump(found.counts(info.id)),
            "devices": [c.as_dict() for c in census(found)],
            "last_session": dump(found.counts(info.id, found.last_session(info.id))),
        }


def counts_table(counts: dict[str, Any]) -> Table:
    """For people."""
    state = "finished" if counts["finished"] else "not finished"
    table = Table(title=f"{counts['run']}: {counts['sessions']} session(s), {state}")
    for heading in ("kind", "made", "reused", "made again", "made last", "reused last"):
        table.add_column(heading, justify="right")
    last = counts["last_session"]
    parts = (counts["made"], counts["reused"], counts["again"], last["made"], last["reused"])
    for kind in sorted({k for part in parts for k in part}):
        table.add_row(kind, *(str(part.get(kind, 0)) for part in parts))
    return table


def devices_table(counts: dict[str, Any]) -> Table:
    """For people: what there is of each device and target."""
    table = Table(title="records of each device, of all runs")
    for heading in ("device", "serial", "target"):
        table.add_column(heading)
    for heading in ("measurements", "trials", "failed", "flagged"):
        table.add_column(heading, justify="right")
    for row in counts["devices"]:
        numbers = (row[k] for k in ("measurements", "trials", "failed", "flagged"))
        names = (row["device"], row["serial"], readable(row["target"]))
        table.add_row(*map(escape, names), *map(str, numbers))  # names may come from others
    return table


def run_transfers(run: str | Path) -> list[Transfer]:
    """What records of other devices gained in the tuning of a records file or of those beside a run.

    Raises:
        UserError: there are no records.
    """
    path = records_file(Path(run))
    if not path.exists():
        raise UserError("there are no records", got=str(path), allowed="the folder of a sweep")
    with Records(path) as found:
        return all_transfers(found)


def transfer_table(found: list[Transfer]) -> Table:
    """For people."""
    table = Table(title="trials until a schedule within 2 % of the best")
    for heading in ("kernel", "device", "target", "records from"):
        table.add_column(heading)
    for heading in ("in the order of the space", "with records"):
        table.add_column(heading, justify="right")
    for t in found:
        default = f"{t.gain.default}" if t.gain.exact else f"at most {t.gain.default}"
        sources = ", ".join(t.sources)
        names = (t.kernel, t.device, readable(t.target), sources)
        table.add_row(*map(escape, names), default, str(t.gain.warm))
    return table
