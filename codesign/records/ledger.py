"""The records file as a ledger: runs, their sessions, and which of them made or used a record."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from codesign.frozen import FrozenMap, canonical
from codesign.records.database import connect, explained, transaction
from codesign.records.entries import Counts, RunInfo

L = TypeVar("L", bound="Ledger")


class Ledger:
    """An open records file and the session that uses it; see `Records`."""

    def __init__(self, path: str | Path, session: int | None = None) -> None:
        self.path = Path(path)
        self.session = session
        self._connection = connect(self.path)

    def __enter__(self: L) -> L:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a record added before is safe without this."""
        self._connection.close()

    def start(self, run: str, command: str = "", goal: Mapping[str, Any] | None = None) -> int:
        """Begin a run, or go on with it: a new session of it. Returns the session's id."""
        now = time.time()
        with transaction(self._connection, self.path):
            self._connection.execute(
                "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, NULL)",
                (run, command, canonical(goal or {}), now),
            )
            self.session = self._insert("sessions", run=run, started=now)
        return self.session

    def finish(self, run: str) -> None:
        """Note that a run reached its end."""
        with transaction(self._connection, self.path):
            self._connection.execute(
                "UPDATE runs SET finished = ? WHERE id = ?", (time.time(), run)
            )

    def run(self, run: str) -> RunInfo | None:
        """What is known about a run; None if it never started."""
        rows = self._rows(
            "SELECT r.*, (SELECT count(*) FROM sessions s WHERE s.run = r.id) FROM runs r"
            " WHERE r.id = ?",
            (run,),
        )
        if not rows:
            return None
        identity, command, goal, started, finished, sessions = rows[0]
        return RunInfo(identity, command, FrozenMap(json.loads(goal)), started, finished, sessions)

    def runs(self) -> list[str]:
        """Ids of all runs, oldest first."""
        return [row[0] for row in self._rows("SELECT id FROM runs ORDER BY started")]

    def last_session(self, run: str) -> int | None:
        """The id of the newest session of a run."""
        rows = self._rows("SELECT max(id) FROM sessions WHERE run = ?", (run,))
        return rows[0][0] if rows else None

    def counts(self, run: str, session: int | None = None) -> Counts:
        """Records made and reused by a run, or by one of its sessions."""
        which = "u.session = ?" if session is not None else "s.run = ?"
        rows = self._rows(
            "SELECT u.kind, u.made, u.record FROM uses u JOIN sessions s ON s.id = u.session"
            f" WHERE {which}",
            (run if session is None else session,),
        )
        made = {(kind, record) for kind, was_made, record in rows if was_made}
        reused = {(kind, record) for kind, was_made, record in rows if not was_made}
        return Counts(_by_kind(made), _by_kind(reused), _by_kind(self._repeated(made)))

    def _repeated(self, made: set[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of the made measurements whose key had one without an error already."""
        older = self._rows(
            "SELECT m.id FROM measurements m WHERE EXISTS (SELECT 1 FROM measurements o"
            " WHERE o.key = m.key AND o.id < m.id AND o.error IS NULL)"
        )
        ids = {row[0] for row in older}
        return {(k, i) for k, i in made if k in ("kernel", "bundle", "baseline") and i in ids}

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with explained(self.path):
            return self._connection.execute(query, values).fetchall()

    def _insert(self, table: str, **columns: Any) -> int:
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        cursor: sqlite3.Cursor = self._connection.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(columns.values())
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _use(self, kind: str, record: int, made: bool) -> None:
        if self.session is not None:
            self._connection.execute(
                "INSERT OR IGNORE INTO uses VALUES (?, ?, ?, ?)",
                (self.session, kind, record, int(made)),
            )

    def _use_all(self, used: list[tuple[str, int]]) -> None:
        if used and self.session is not None:
            with transaction(self._connection, self.path):
                for kind, record in used:
                    self._use(kind, record, made=False)


def _by_kind(records: Iterable[tuple[str, int]]) -> FrozenMap:
    return FrozenMap(Counter(kind for kind, _ in records))
