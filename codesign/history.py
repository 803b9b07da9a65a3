"""What a run measured, and what it took from earlier runs or from its own earlier sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from codesign.errors import UserError
from codesign.records import Records
from codesign.report.data import FILE
from codesign.schema import dump


def run_counts(run: str | Path, records: str | Path | None = None) -> dict[str, Any]:
    """Counts by kind: made and reused by all sessions of a run, and by its last one.

    ``again`` counts measurements made although the same one was stored already: it stays empty.

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
