"""The SQLite file: its tables, opening it, and its errors in words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codesign.errors import UserError

VERSION = 2
"""Schema version, kept in ``PRAGMA user_version``."""

APPLICATION = 0x434F4453
"""``CODS``: marks the file as ours in ``PRAGMA application_id``."""

BUSY_SECONDS = 30.0
"""How long a writer waits for another process to finish its transaction."""

TABLES = ("measurements", "trials", "evaluations", "sensitivities")
"""The tables that hold records; ``uses`` refers to rows of these."""

_KEYS = """
CREATE TABLE keys (  -- what the digests of measurements and trials are made of
  key TEXT PRIMARY KEY, kind TEXT NOT NULL, kernel_hash TEXT NOT NULL, target TEXT NOT NULL,
  device TEXT NOT NULL, protocol TEXT NOT NULL, versions TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_kernel ON keys (kernel_hash);
"""

_SCHEMA = """
CREATE TABLE runs (
  id TEXT PRIMARY KEY, command TEXT NOT NULL, goal TEXT NOT NULL,
  started REAL NOT NULL, finished REAL
) STRICT;

CREATE TABLE sessions (  -- one process start of a run: a resumed run has several
  id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs(id), started REAL NOT NULL
) STRICT;

CREATE TABLE measurements (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('kernel', 'bundle', 'baseline')),
  kernel_hash TEXT NOT NULL, target TEXT NOT NULL, device TEXT NOT NULL,
  protocol_hash TEXT NOT NULL, protocol TEXT NOT NULL, versions TEXT NOT NULL,
  seconds REAL, lo REAL, hi REAL, samples TEXT NOT NULL, ratio REAL, load REAL NOT NULL,
  meta TEXT NOT NULL, error TEXT, created REAL NOT NULL,
  CHECK ((error IS NULL) = (seconds IS NOT NULL))
) STRICT;
CREATE INDEX measurements_key ON measurements (key);

CREATE TABLE trials (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, schedule TEXT NOT NULL,
  seconds REAL, lo REAL, hi REAL, samples TEXT NOT NULL, ratio REAL, load REAL NOT NULL,
  meta TEXT NOT NULL, error TEXT, created REAL NOT NULL,
  CHECK ((error IS NULL) = (seconds IS NOT NULL))
) STRICT;
CREATE INDEX trials_key ON trials (key);

CREATE TABLE evaluations (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL,
  model TEXT NOT NULL, candidate TEXT NOT NULL, dataset TEXT NOT NULL, solver TEXT NOT NULL,
  quality TEXT NOT NULL, output_error REAL, error TEXT, created REAL NOT NULL
) STRICT;
CREATE INDEX evaluations_key ON evaluations (key);

CREATE TABLE sensitivities (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL,
  model TEXT NOT NULL, site TEXT NOT NULL, choice TEXT NOT NULL, dataset TEXT NOT NULL,
  solver TEXT NOT NULL, value REAL NOT NULL, created REAL NOT NULL
) STRICT;
CREATE INDEX sensitivities_key ON sensitivities (key);

CREATE TABLE uses (  -- which session took which record, and whether it made it
  session INTEGER NOT NULL REFERENCES sessions(id),
  kind TEXT NOT NULL, record INTEGER NOT NULL, made INTEGER NOT NULL CHECK (made IN (0, 1)),
  PRIMARY KEY (session, kind, record)
) STRICT, WITHOUT ROWID;
"""


class RecordsError(UserError):
    """The records file cannot be used: damaged, foreign, of another version, not writable."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the records file, making it if it is not there.

    Raises:
        RecordsError: see the class.
    """
    with explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(path, str(error.strerror or error)) from error
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All of the block or none of it; waits for other writers first."""
    with explained(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has rolled back already
                connection.execute("ROLLBACK")
            raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ones that say what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            raise _unwritable(path, text) from error
        if "full" in text or "disk I/O" in text:
            raise RecordsError(
                "the records cannot grow", got=f"{path}: {text}",
                allowed="a disk with free space",
                next="free space and run the same command: nothing stored is lost",
            ) from error  # fmt: skip
        if "locked" in text or "busy" in text:
            raise RecordsError(
                "the records are locked by another process", got=f"{path}: {text}",
                allowed=f"writers that finish within {BUSY_SECONDS:g} s",
                next="wait for the other command, then run this one again",
            ) from error  # fmt: skip
        if "not a database" in text or "malformed" in text or "corrupt" in text:
            raise _damaged(path, text) from error
        raise


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check the file and create the tables if it is new."""
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise _damaged(path, problem)
    _write_ahead(connection)
    # NORMAL under WAL: a killed process loses nothing, a power cut at most the last transactions
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    if _state(connection) == (0, 0):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _state(connection) == (0, 0):  # nobody made it while we waited
                _create(connection, path)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    application, version = _state(connection)
    if application != APPLICATION:
        raise _damaged(path, "a database of another program")
    if version == 1:
        _upgrade(connection)
        _, version = _state(connection)
    if version != VERSION:
        raise RecordsError(
            "the records were written by another version", got=f"{path}: schema {version}",
            allowed=f"schema {VERSION}",
            next="update codesign, or give the run another output folder",
        )  # fmt: skip


def _create(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise _damaged(path, "a database of another program")
    _execute(connection, _SCHEMA)
    _execute(connection, _KEYS)
    for table in (*TABLES, "uses", "sessions", "keys"):
        _append_only(connection, table)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _upgrade(connection: sqlite3.Connection) -> None:
    """From version 1, which did not know of what the keys of trials are made; all of it or nothing.

    A trial whose kernel has no measurement yet stays without: the run that goes on tells its key again.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _state(connection)[1] == 1:  # nobody did it while we waited
            _execute(connection, _KEYS)
            connection.execute(
                "INSERT OR IGNORE INTO keys"
                " SELECT key, kind, kernel_hash, target, device, protocol, versions"
                " FROM measurements ORDER BY id"
            )
            _append_only(connection, "keys")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _execute(connection: sqlite3.Connection, statements: str) -> None:
    """Run several statements; ``executescript`` would commit what is open."""
    for statement in statements.split(";\n"):
        if statement.strip():
            connection.execute(statement)


def _append_only(connection: sqlite3.Connection, table: str) -> None:
    for verb in ("UPDATE", "DELETE"):
        connection.execute(
            f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table}"
            f" BEGIN SELECT RAISE(ABORT, 'records are append-only'); END"
        )


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL; SQLite does not wait by itself while two processes do this at once."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _state(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _damaged(path: Path, detail: str) -> RecordsError:
    return RecordsError(
        "the records file is damaged or not ours", got=f"{path}: {detail}",
        allowed="a file that codesign wrote", next=f"move {path} away and run the command again",
    )  # fmt: skip


def _unwritable(path: Path, detail: str) -> RecordsError:
    return RecordsError(
        "the records cannot be written", got=f"{path}: {detail}",
        allowed="a folder that can be written", next="choose another output folder",
    )  # fmt: skip
