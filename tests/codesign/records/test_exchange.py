"""Records that travel: whole, once, never over another file, and nothing of a damaged one."""

from __future__ import annotations

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.candidate import Candidate, Choice
from codesign.errors import UserError
from codesign.measurement import Measurement, summarize
from codesign.records import (
    Evaluation,
    EvaluationKey,
    MeasureKey,
    Records,
    SensitivityKey,
    Trial,
    bounded,
    importing,
    portable,
)
from codesign.records.census import census
from codesign.records.exporting import export_records, records_file
from codesign.records.importing import import_records, merge_records
from codesign.records.values import LineError

GOOD = summarize([1.1e-3, 1.0e-3, 1.2e-3], [5e-4] * 4, load=0.05, probes=[[1.0, None]], flags=["x"])
BAD = Measurement.failed("worker died with signal 11: \u00e4")
CANDIDATE = Candidate((Choice("layer0.ffn", "ffn", {"keep": 768}), Choice("b.c", "int8", {})))
TARGET = '{"block":16,"kind":"llvm","mcpu":"x","threads":1}'


def key(kernel="k", device="this", target=TARGET, kind="kernel"):
    return MeasureKey(kernel, target, device, {"repeats": 10}, {"tvm": "0.27"}, kind)


def fill(path, device="this", kernels=("a", "b")):
    with Records(path) as records:
        records.start("run", "codesign sweep secret.toml")
        for name in kernels:
            records.add_measurement(key(name, device), GOOD.with_meta(device="serial"))
            records.add_trial(key(name, device), Trial("s1", GOOD))
            records.add_trial(key(name, device), Trial("s2", BAD))
        records.add_trial(key("unfinished", device), Trial("s1", GOOD))
        records.add_measurement(key("p", device, kind="bundle"), BAD)
        model = EvaluationKey("m", CANDIDATE.key, "data", "s")
        records.add_evaluation(model, Evaluation({"mrr": 0.54}, 0.013))
        records.add_evaluation(model, Evaluation(error="ZeroDivisionError"))
        records.add_sensitivity(SensitivityKey("m", CANDIDATE, "data", "s"), 0.02)
    return path


ROWS = {"measurements": 3, "trials": 5, "evaluations": 2, "sensitivities": 1}


@pytest.fixture
def source(tmp_path):
    return fill(tmp_path / "a.sqlite")


def rows(path):
    """All of a file but ids and what runs did."""
    with Records(path) as records:
        found = {}
        for table in ROWS:
            names = [r[1] for r in records._rows(f"PRAGMA table_info({table})")]
            kept = [n for n in names if n != "id"]
            every = records._rows(f"SELECT {', '.join(kept)} FROM {table}")
            found[table] = sorted(
                tuple(
                    json.dumps(json.loads(v), sort_keys=True)
                    if n in ("samples", "meta", "protocol", "versions", "quality", "choice")
                    else str(v)
                    for n, v in zip(kept, row, strict=True)
                )
                for row in every
            )
        found["keys"] = sorted(records._rows("SELECT * FROM keys"))
        return found


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_all_comes_back_and_only_once(source, tmp_path, name):
    done = export_records(source, tmp_path / name)
    assert (dict(done.rows), done.nameless) == (ROWS, 0)
    first = import_records(tmp_path / name, tmp_path / "b.sqlite")
    assert dict(first.added) == ROWS
    assert not first.known
    assert first.places == {(TARGET, "this"): 8}
    assert rows(tmp_path / "b.sqlite") == rows(source)
    again = import_records(tmp_path / name, tmp_path / "b.sqlite")
    assert not again.added
    assert dict(again.known) == ROWS
    assert rows(tmp_path / "b.sqlite") == rows(source)
    with Records(tmp_path / "b.sqlite") as records:
        assert records.find_measurement(key("a")) == GOOD.with_meta(device="serial")
        assert [t.schedule for t in records.trials(key("a"))] == ["s1", "s2"]
        assert records.trials_elsewhere(key("unfinished", "that"))[0].key == key("unfinished")
        sensitivity = SensitivityKey("m", CANDIDATE, "data", "s")
        assert records.find_sensitivity(sensitivity) == 0.02
        evaluation = EvaluationKey("m", CANDIDATE.key, "data", "s")
        assert records.find_evaluation(evaluation) == Evaluation({"mrr": 0.54}, 0.013)
        assert records.runs() == []  # what a run did stays at home


def test_the_same_records_are_the_same_bytes(source, tmp_path):
    for name in ("x.jsonl.gz", "y.jsonl.gz"):
        export_records(source, tmp_path / name)
        time.sleep(0.01)
    assert (tmp_path / "x.jsonl.gz").read_bytes() == (tmp_path / "y.jsonl.gz").read_bytes()
    assert b"secret" not in gzip.decompress((tmp_path / "x.jsonl.gz").read_bytes())
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_run_that_takes_imported_records_reuses_them(source, tmp_path):
    export_records(source, tmp_path / "x.jsonl")
    import_records(tmp_path / "x.jsonl", tmp_path / "b.sqlite")
    with Records(tmp_path / "b.sqlite") as records:
        records.start("run")
        records.find_measurement(key("a"))
        counts = records.counts("run")
        assert (dict(counts.made), dict(counts.reused)) == ({}, {"kernel": 1})


def test_the_newest_counts_even_if_it_was_imported_before(tmp_path):
    """Imported records come later into the file than they were measured."""
    old, new = summarize([2e-3] * 3), summarize([1e-3] * 3)
    with Records(tmp_path / "old.sqlite") as records:
        records.add_measurement(key(), old)
    export_records(tmp_path / "old.sqlite", tmp_path / "old.jsonl")
    with Records(tmp_path / "new.sqlite") as records:
        records.add_measurement(key(), new)
    import_records(tmp_path / "old.jsonl", tmp_path / "new.sqlite")
    with Records(tmp_path / "new.sqlite") as records:
        assert records.find_measurement(key()) == new


def test_a_dry_run_stores_nothing(source, tmp_path):
    export_records(source, tmp_path / "x.jsonl")
    target = tmp_path / "b.sqlite"
    assert dict(import_records(tmp_path / "x.jsonl", target, dry_run=True).added) == ROWS
    assert not target.exists()
    fill(target, kernels=("c",))
    before = rows(target)
    done = import_records(tmp_path / "x.jsonl", target, dry_run=True)
    assert done.added["measurements"] == 3
    assert rows(target) == before


def test_only_what_is_wanted(source, tmp_path):
    fill(source, device="that", kernels=("c",))
    done = export_records(
        source, tmp_path / "x.jsonl", lambda row: row.values.get("device") == "that"
    )
    assert dict(done.rows) == {
        "measurements": 2, "trials": 3, "evaluations": 0, "sensitivities": 0,
    }  # fmt: skip
    import_records(tmp_path / "x.jsonl", tmp_path / "b.sqlite")
    with Records(tmp_path / "b.sqlite") as records:
        assert records.find_measurement(key("c", "that")).ok
        assert records.find_measurement(key("c", "this")) is None


def test_another_target_is_refused_whole(source, tmp_path):
    with Records(source) as records:
        records.add_measurement(key("z", target="other"), GOOD)
    export_records(source, tmp_path / "x.jsonl")

    def accepts(row):
        return row.target in (None, TARGET)

    with pytest.raises(UserError, match="records of other targets") as caught:
        import_records(tmp_path / "x.jsonl", tmp_path / "b.sqlite", accepts=accepts)
    assert caught.value.got == "1 of other on this"
    assert not (tmp_path / "b.sqlite").exists()


# damage --------------------------------------------------------------------------------------------------


def exported(source, tmp_path, change=lambda lines: lines):
    export_records(source, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "x.jsonl").write_bytes(b"".join(change(lines)))
    return tmp_path / "x.jsonl"


def test_damaged_lines_are_counted_named_and_stop_it(source, tmp_path):
    def change(lines):
        lines[3], lines[6] = lines[3][:40] + b"\n", b"\xff\xfe\n"
        return lines

    file = exported(source, tmp_path, change)
    with pytest.raises(UserError, match="2 lines are damaged, nothing was imported") as caught:
        import_records(file, tmp_path / "b.sqlite")
    assert "line 4: " in caught.value.got
    assert "line 7: " in caught.value.got
    assert not (tmp_path / "b.sqlite").exists()
    done = import_records(file, tmp_path / "b.sqlite", skip_damaged=True)
    assert [d.line for d in done.damaged] == [4, 7]
    assert sum(done.added.values()) == sum(ROWS.values()) - 2


def test_a_file_that_ends_early_is_noticed_even_at_the_end_of_a_line(source, tmp_path):
    file = exported(source, tmp_path, lambda lines: lines[:-2])
    with pytest.raises(UserError, match="damaged") as caught:
        import_records(file, tmp_path / "b.sqlite")
    assert "2 records are missing" in caught.value.got
    (tmp_path / "more").mkdir()
    more = exported(source, tmp_path / "more", lambda lines: [*lines, lines[-1]])
    with pytest.raises(UserError, match="damaged") as caught:
        import_records(more, tmp_path / "b.sqlite")
    assert "1 records are too many" in caught.value.got


def test_a_gzip_file_that_ends_early(source, tmp_path):
    export_records(source, tmp_path / "x.jsonl.gz")
    data = (tmp_path / "x.jsonl.gz").read_bytes()
    for part in (data[:-20], data[:30], data[:-60] + bytes(60)):
        (tmp_path / "y.jsonl.gz").write_bytes(part)
        with pytest.raises(UserError, match="damaged"):
            import_records(tmp_path / "y.jsonl.gz", tmp_path / "b.sqlite")
    assert not (tmp_path / "b.sqlite").exists()


def test_a_failure_in_the_middle_leaves_nothing_half(source, tmp_path, monkeypatch):
    file = exported(source, tmp_path)
    target = fill(tmp_path / "b.sqlite", kernels=("c",))
    before = rows(target)
    count = [0]

    def fail(self, table, **columns):
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return original(self, table, **columns)

    original = Records._insert
    monkeypatch.setattr(Records, "_insert", fail)
    with pytest.raises(KeyboardInterrupt):
        import_records(file, target)
    monkeypatch.undo()
    assert rows(target) == before


def edited(table, /, **changes):
    """A line of a table with other values; None as a value takes a name away with ``remove``."""
    values = {
        "measurements": {
            "kind": "kernel", "kernel_hash": "k", "target": "t", "device": "d", "protocol": {}, "versions": {},
            "seconds": 1e-3, "lo": 1e-3, "hi": 1e-3, "samples": [1e-3], "ratio": None, "load": 0, "meta": {},
            "error": None, "created": 1.0,
        },
        "sensitivities": {
            "model": "m", "choice": [{"site": "a", "pass": "int8", "setting": {}}], "dataset": "d",
            "solver": "s", "value": 0.1, "created": 1.0,
        },
        "evaluations": {
            "model": "m", "candidate": "c", "dataset": "d", "solver": "s", "quality": {"mrr": 0.5},
            "output_error": None, "error": None, "created": 1.0,
        },
    }  # fmt: skip
    values["trials"] = {**values["measurements"], "schedule": "s"}
    data = {"table": table, **values[table], **changes}
    return json.dumps({k: v for k, v in data.items() if v != "remove"}).encode()


def test_a_sound_line_of_each_table():
    for table in ROWS:
        row = portable.decode(edited(table))
        assert row.table == table
        assert portable.decode(portable.encode(row).encode()) == row


TIMED = "measurements"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "no JSON"),
        (b"[1]", "its table is None"),
        (b"{}", "its table is None"),
        (b'{"table": ["trials"]}', "its table is"),
        (edited(TIMED, table="runs"), "its table is 'runs'"),
        (edited(TIMED, more=1), "unknown key 'more'"),
        (edited(TIMED, key="0" * 64), "unknown key 'key'"),
        (edited(TIMED, load="remove"), "it lacks load"),
        (edited(TIMED, seconds=math.nan), "NaN is no number"),
        (edited(TIMED, seconds=1).replace(b'"seconds": 1,', b'"seconds": 1e999,'), "too large"),
        (edited(TIMED, meta={"x": -math.inf}), "no number"),
        (edited(TIMED, seconds=10**400), "a finite number"),
        (edited(TIMED, seconds="1"), "measurement.seconds"),
        (edited(TIMED, seconds=True), "measurement.seconds"),
        (edited(TIMED, seconds=-1.0), "negative"),
        (edited(TIMED, samples=[0.0]), "negative"),
        (edited(TIMED, samples=["a"]), "samples[0]"),
        (edited(TIMED, samples={}), "samples"),
        (edited(TIMED, load=-0.5), "negative"),
        (edited(TIMED, error="dead"), "neither a time nor an error"),
        (edited(TIMED, seconds=None), "neither a time nor an error"),
        (edited(TIMED, kind="model"), "kind is 'model'"),
        (edited(TIMED, kernel_hash=7), "kernel_hash"),
        (edited(TIMED, protocol=[]), "protocol"),
        (edited(TIMED, versions={"tvm": 1}), "versions.tvm"),
        (edited(TIMED, meta=None), "meta"),
        (edited(TIMED, meta={"probes": [["a"]]}), "meta.probes"),
        (edited(TIMED, meta={"probes": 3}), "meta.probes"),
        (edited(TIMED, meta={"schedule": []}), "meta.schedule"),
        (edited(TIMED, meta={"decisions": {"a": 1}}), "meta.decisions.a"),
        (edited(TIMED, meta={"transfer": {"default": 1}}), "meta.transfer"),
        (edited(TIMED, meta={"flags": "hot"}), "meta.flags"),
        (edited(TIMED, created=time.time() + 10 * 86400), "not a time until now"),
        (edited(TIMED, created=-1), "not a time until now"),
        (edited(TIMED)[:-1] + b', "load": 0}', "twice"),
        (edited(TIMED, device="x").replace(b'"x"', b'"\\ud800"'), "no JSON of ours"),
        (b'{"table": "trials", "meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON"),
        (edited("trials", schedule=None), "trial.schedule"),
        (edited(TIMED, device="a\x1b[2J"), "cannot be printed"),
        (edited(TIMED, meta={"device": "a\nb"}), "cannot be printed"),
        (edited(TIMED, **{"\x1b[31m": 1}), "unknown key '?[31m'"),
        (edited("evaluations", quality={"mrr": "good"}), "quality.mrr"),
        (edited("sensitivities", choice=[{"site": "a"}]), "choice[0] lacks"),
        (edited("sensitivities", choice=[{"site": "a", "pass": "p", "setting": {}}] * 2), "got twice"),
    ],
)  # fmt: skip
def test_lines_that_are_no_records(line, words):
    with pytest.raises(LineError) as caught:
        portable.decode(line)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 200


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 a zip file\n", "no file of records"),
        (b"{}\n", "no file of records"),
        (b'{"format": "codesign-records", "version": 2, "rows": {}}\n', "another version"),
        (b'{"format": "codesign-records", "version": 1}\n', "header"),
        (b'{"format": "codesign-records", "version": 1, "rows": {"runs": 1}}\n', "header"),
        (b'{"format": "codesign-records", "version": 1, "rows": {"trials": -1}}\n', "header"),
    ],
)
def test_files_that_are_something_else(tmp_path, header, words):
    (tmp_path / "x.jsonl").write_bytes(header)
    with pytest.raises(UserError, match=words):
        import_records(tmp_path / "x.jsonl", tmp_path / "b.sqlite")
    assert not (tmp_path / "b.sqlite").exists()


def test_a_bomb_is_refused_without_taking_memory(tmp_path, monkeypatch):
    header = portable.encode_header("1", {}).encode() + b"\n"
    with gzip.open(tmp_path / "long.gz", "wb") as stream:
        stream.write(header)
        for _ in range(40):
            stream.write(b" " * (1 << 20))
    with pytest.raises(UserError, match="too large") as caught:
        import_records(tmp_path / "long.gz", tmp_path / "b.sqlite")
    assert "line 2 is longer than" in caught.value.got
    monkeypatch.setattr(importing, "lines", lambda file: bounded.lines(file, 1 << 20, 1 << 21))
    with gzip.open(tmp_path / "many.gz", "wb") as stream:
        stream.write(header)
        for _ in range(4):
            stream.write(b" " * ((1 << 20) - 1) + b"\n")
    with pytest.raises(UserError, match="too large") as caught:
        import_records(tmp_path / "many.gz", tmp_path / "b.sqlite")
    assert "more than 2097152 bytes" in caught.value.got


def test_only_plain_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="no such file"):
            import_records(path, tmp_path / "b.sqlite")
    with pytest.raises(UserError, match="no such records"):
        import_records(tmp_path / "x", tmp_path / "no-folder" / "run")
    with pytest.raises(UserError, match="no such records"):
        export_records(tmp_path / "neither-run-nor-file", tmp_path / "x.jsonl")
    with pytest.raises(UserError, match="no records to export"):
        export_records(tmp_path / "none.sqlite", tmp_path / "x.jsonl")
    assert records_file(tmp_path) == tmp_path.resolve().parent / "records.sqlite"


def test_nothing_is_overwritten(source, tmp_path):
    (tmp_path / "mine").write_text("mine")
    os.symlink(tmp_path / "dangling", tmp_path / "link.jsonl")
    for name in ("mine", "link.jsonl"):
        with pytest.raises(UserError, match="there already"):
            export_records(source, tmp_path / name)
        with pytest.raises(UserError, match="there already"):
            merge_records([source], tmp_path / name)
    assert (tmp_path / "mine").read_text() == "mine"
    with pytest.raises(UserError, match="cannot write"):
        export_records(source, tmp_path / "mine" / "x.jsonl")


def test_an_export_that_is_killed_leaves_no_file(source, tmp_path, monkeypatch):
    def fail(row):
        raise KeyboardInterrupt

    monkeypatch.setattr(portable, "encode", fail)
    with pytest.raises(KeyboardInterrupt):
        export_records(source, tmp_path / "x.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir() if "jsonl" in p.name) == []


@pytest.mark.parametrize("output", ["c.sqlite", "c.jsonl.gz"])
def test_merge(source, tmp_path, output):
    other = fill(tmp_path / "other.sqlite", device="that", kernels=("c",))
    export_records(other, tmp_path / "other.jsonl")
    done = merge_records([source, tmp_path / "other.jsonl", source], tmp_path / output)
    assert done.added["trials"] == 5 + 3
    assert done.known["trials"] == 5
    assert done.known["sensitivities"] == 1
    whole = tmp_path / output
    if not output.endswith(".sqlite"):
        import_records(whole, tmp_path / "again.sqlite")
        whole = tmp_path / "again.sqlite"
    with Records(whole) as records:
        assert records.find_measurement(key("a", "this")).ok
        assert records.find_measurement(key("c", "that")).ok
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_counts_of_each_device(source):
    fill(source, device="that", kernels=("c",))
    with Records(source) as records:
        found = [(c.device, c.serial, c.measurements, c.trials, c.failed, c.flagged)
                 for c in census(records)]  # fmt: skip
    assert found == [
        ("that", "", 1, 3, 2, 0),
        ("that", "serial", 1, 0, 0, 1),
        ("this", "", 1, 5, 3, 0),
        ("this", "serial", 2, 0, 0, 2),
    ]


WRITER = """
import sys
from pathlib import Path
from codesign.records.importing import import_records
print("begin", flush=True)
import_records(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_kill_in_the_middle_of_an_import_leaves_all_or_nothing(tmp_path):
    with Records(tmp_path / "a.sqlite") as records:
        for i in range(800):
            records.add_trial(key(f"{i}"), Trial("s", GOOD))
    export_records(tmp_path / "a.sqlite", tmp_path / "x.jsonl")
    for delay in (0.05, 0.15, 0.3):
        target = tmp_path / f"{delay}.sqlite"
        command = [sys.executable, "-c", WRITER, str(tmp_path / "x.jsonl"), str(target)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.read(5)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with Records(target) as records:
            assert len(records._rows("SELECT id FROM trials")) in (0, 800)


texts = st.text(st.characters(codec="utf-8"), max_size=12)
names = texts.filter(str.isprintable)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
metas = st.dictionaries(texts.map(lambda t: "m" + t), json_values, max_size=3)
measurements = st.one_of(
    st.builds(Measurement.failed, texts).flatmap(
        lambda m: metas.map(lambda meta: m.with_meta(**meta))
    ),
    st.tuples(st.lists(st.floats(1e-9, 10), min_size=1, max_size=9), st.floats(0, 8)).map(
        lambda pair: summarize(pair[0], load=pair[1])
    ),
)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(names, names, texts, metas, measurements), max_size=5))
def test_any_records_come_back(tmp_path_factory, many):
    folder = tmp_path_factory.mktemp("any")
    with Records(folder / "a.sqlite") as records:
        for kernel, device, schedule, protocol, measurement in many:
            found = MeasureKey(kernel, "t", device, protocol, {"v": kernel})
            records.add_measurement(found, measurement)
            records.add_trial(found, Trial(schedule, measurement))
    export_records(folder / "a.sqlite", folder / "x.jsonl.gz")
    import_records(folder / "x.jsonl.gz", folder / "b.sqlite")
    assert rows(folder / "b.sqlite") == rows(folder / "a.sqlite")
    assert not import_records(folder / "x.jsonl.gz", folder / "a.sqlite").added


@given(st.binary(max_size=80), st.integers(0, 400), st.integers(0, 20))
def test_a_line_is_a_record_or_an_error_and_nothing_else(noise, place, cut):
    line = edited("trials")
    broken = line[:place] + noise + line[place + cut :]
    try:
        row = portable.decode(broken)
    except LineError:
        return
    assert row.table in ROWS
    assert portable.decode(portable.encode(row).encode()).content == row.content
