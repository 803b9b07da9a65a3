import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from codesign.errors import UserError
from codesign.measurement import summarize
from codesign.records import MeasureKey, Records, RecordsError, Trial, database

GOOD = summarize([1e-3, 1.1e-3, 1.2e-3])

WRITER = """
import sys
from codesign.measurement import summarize
from codesign.records import MeasureKey, Records
with Records(sys.argv[1]) as records:
    records.start(sys.argv[2])
    for i in range(int(sys.argv[3])):
        key = MeasureKey(f"{sys.argv[2]}-{i}", "t", "d", {}, {})
        records.add_measurement(key, summarize([1e-3, 1.1e-3, 1.2e-3]))
        print(i, flush=True)
"""


def writer(path, name, count):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def key(kernel):
    return MeasureKey(kernel, "t", "d", {}, {})


def test_two_processes_write_at_once_from_the_first_moment(tmp_path):
    path = tmp_path / "r.sqlite"
    both = [writer(path, name, 60) for name in ("a", "b")]
    for process in both:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with Records(path) as records:
        assert records.counts("a").made == records.counts("b").made == {"kernel": 60}
        assert records.missing([key(f"{n}-{i}") for n in "ab" for i in range(60)]) == []


def test_kill_loses_nothing_that_was_stored(tmp_path):
    path = tmp_path / "r.sqlite"
    process = writer(path, "run", 100_000)
    last = -1
    for line in process.stdout:
        last = int(line)
        if last >= 20:
            process.send_signal(signal.SIGKILL)
            break
    last = max([last, *(int(x) for x in process.communicate()[0].split())])
    with Records(path) as records:
        assert records.missing([key(f"run-{i}") for i in range(last + 1)]) == []
        records.start("run")
        records.add_measurement(key("after"), GOOD)
        assert records.counts("run").made["kernel"] >= last + 2


def test_an_interrupted_transaction_leaves_nothing_half(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:

        def interrupted():
            with database.transaction(records._connection, records.path):
                records._insert("runs", id="half", command="", goal="{}", started=0.0)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert records.runs() == []
        records.start("whole")


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "r.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(RecordsError, match="damaged or not ours") as caught:
        Records(path)
    assert isinstance(caught.value, UserError)
    assert str(path) in caught.value.next


def test_the_database_of_another_program_is_left_alone(tmp_path):
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(RecordsError, match="not ours"):
        Records(path)
    tables = sqlite3.connect(path).execute("SELECT name FROM sqlite_schema").fetchall()
    assert tables == [("theirs",)]


def test_a_changed_page_is_found(tmp_path):
    path = tmp_path / "r.sqlite"
    with Records(path) as records:
        for i in range(200):
            records.add_measurement(key(f"{i}"), GOOD)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    with pytest.raises(RecordsError, match="damaged"):
        Records(path)


def test_another_schema_version_is_refused(tmp_path):
    path = tmp_path / "r.sqlite"
    Records(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {database.VERSION + 1}")
    with pytest.raises(RecordsError, match="another version") as caught:
        Records(path)
    assert f"schema {database.VERSION + 1}" in caught.value.got


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match="cannot be written"):
        Records(tmp_path / "file" / "r.sqlite")


def test_read_only(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        records._connection.execute("PRAGMA query_only = ON")  # root ignores permissions
        with pytest.raises(RecordsError, match="cannot be written"):
            records.add_measurement(key("a"), GOOD)


def test_a_full_disk_keeps_what_was_stored(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        (pages,) = records._connection.execute("PRAGMA page_count").fetchone()
        records._connection.execute(f"PRAGMA max_page_count = {pages + 3}")

        def fill():
            for i in range(1000):
                records.add_measurement(key(f"{i}"), GOOD)

        with pytest.raises(RecordsError, match="cannot grow") as caught:
            fill()
        assert "nothing stored is lost" in caught.value.next
        assert records.find_measurement(key("0")) == GOOD


def test_a_writer_that_never_ends_is_named(tmp_path, monkeypatch):
    path = tmp_path / "r.sqlite"
    Records(path).close()
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    with Records(path) as records:
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        with pytest.raises(RecordsError, match="locked by another process"):
            records.add_measurement(key("a"), GOOD)
        assert time.monotonic() - start < 5
        other.execute("ROLLBACK")
        records.add_measurement(key("a"), GOOD)
    other.close()


def old(path):
    """A file as version 1 wrote it: no table of keys."""
    with Records(path) as records:
        records.start("run")
        records.add_measurement(key("a"), GOOD)
        records.add_measurement(key("a"), GOOD)
        records.add_trial(key("a"), Trial("s", GOOD))
        records.add_trial(key("unfinished"), Trial("s", GOOD))
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE keys")
        raw.execute("PRAGMA user_version = 1")
    raw.close()


def test_a_file_of_version_1_is_upgraded_with_all_it_holds(tmp_path):
    path = tmp_path / "r.sqlite"
    old(path)
    with Records(path) as records:
        assert records._rows("SELECT key FROM keys") == [(key("a").digest,)]
        assert records.find_measurement(key("a")) == GOOD
        assert len(records.trials(key("unfinished"))) == 1
        assert records.counts("run").made == {"kernel": 2, "trial": 2}
        other = MeasureKey("a", "t", "other", {}, {})
        assert [e.key for e in records.trials_elsewhere(other)] == [key("a")]
        records.add_trial(key("unfinished"), Trial("t", GOOD))  # its key is told again
        assert len(records._rows("SELECT key FROM keys")) == 2
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            records._connection.execute("DELETE FROM keys")
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (2,)


def test_an_upgrade_that_fails_leaves_version_1(tmp_path, monkeypatch):
    path = tmp_path / "r.sqlite"
    old(path)

    def fail(connection, table):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(database, "_append_only", fail)
    with pytest.raises(RecordsError, match="cannot grow"):
        Records(path)
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA user_version").fetchone() == (1,)
    assert not raw.execute("SELECT name FROM sqlite_schema WHERE name = 'keys'").fetchall()
    raw.close()
    monkeypatch.undo()
    with Records(path) as records:
        assert records.find_measurement(key("a")) == GOOD


def test_two_processes_upgrade_at_once(tmp_path):
    path = tmp_path / "r.sqlite"
    old(path)
    both = [writer(path, name, 5) for name in ("a", "b")]
    for process in both:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with Records(path) as records:
        assert len(records._rows("SELECT key FROM keys")) == 11
