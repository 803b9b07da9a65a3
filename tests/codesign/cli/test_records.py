"""``codesign records`` and its commands, by the command line."""

from __future__ import annotations

import json

import pytest

from codesign.cli import main
from codesign.device import measure_key
from codesign.measurement import Protocol, summarize
from codesign.records import Records, Trial
from codesign.target_text import is_for, readable
from targets.target import KNOWN

GOOD = summarize([1e-3] * 3)
ARM, ZEN = KNOWN["aarch64"], KNOWN["znver4"]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with Records(tmp_path / "records.sqlite") as records:
        records.start(str(folder.resolve()))
        for target, device in ((ARM, "Pixel 8"), (ARM.with_threads(2), "Pixel 8"), (ZEN, "here")):
            key = measure_key("k" * 16, target, device, Protocol())
            told = {"default": 5, "warm": 2, "exact": False, "from": ["here"]}
            meta = {"transfer": told} if target is ARM else {}
            records.add_measurement(key, GOOD.with_meta(device=f"{device} serial", **meta))
            records.add_trial(key, Trial("s", GOOD))
    return folder


def ended(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(["records", *map(str, argv)])
    told = capsys.readouterr()
    return int(caught.value.code or 0), told.out, told.err


@pytest.mark.parametrize("first", [(), ("show",)])
def test_a_run_is_shown_with_and_without_the_word(run, capsys, first):
    code, out, _ = ended(capsys, *first, run, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["made"] == {"kernel": 3, "trial": 3}
    assert {d["device"] for d in found["devices"]} == {"Pixel 8", "here"}
    assert {d["serial"] for d in found["devices"]} == {"Pixel 8 serial", "here serial", ""}
    code, out, _ = ended(capsys, *first, run)
    assert code == 0
    assert "Pixel 8" in out
    assert "generic, 2 threads" in out
    assert ended(capsys, "--json", run)[0] == 0


def test_out_and_in_again(run, tmp_path, capsys):
    file, other = tmp_path / "x.jsonl.gz", tmp_path / "other.sqlite"
    code, out, _ = ended(capsys, "export", run, file, "--target", "aarch64")
    assert (code, out) == (0, f"2 measurements, 2 trials written to {file}\n")
    code, out, _ = ended(capsys, "import", file, other, "--dry-run")
    assert out == f"2 measurements, 2 trials would be added to {other}, nothing known already\n"
    assert not other.exists()
    code, out, _ = ended(capsys, "import", file, other, "--for-target", "aarch64", "--json")
    assert json.loads(out)["added"] == {"measurements": 2, "trials": 2}
    code, out, _ = ended(capsys, "import", file, other)
    assert out == f"nothing added to {other}, 2 measurements, 2 trials known already\n"
    code, out, err = ended(capsys, "import", file, tmp_path / "b.sqlite", "--for-target", "znver4")
    assert code == 2
    assert "records of other targets" in err
    assert "leave --for-target away" in " ".join(err.split())
    assert ended(capsys, "export", run, file)[0] == 2


@pytest.mark.parametrize("into", ["runs/to-come", "runs"])
def test_records_of_others_come_before_the_first_run(run, tmp_path, capsys, into):
    ended(capsys, "export", run, tmp_path / "x.jsonl")
    there = tmp_path / "mine" / "runs" / "records.sqlite"
    there.parent.mkdir(parents=True)
    code, out, _ = ended(capsys, "import", tmp_path / "x.jsonl", there.parents[1] / "runs/to-come")
    assert code == 0
    assert f"added to {there}, nothing known" in out
    out = ended(capsys, "import", tmp_path / "x.jsonl", there.parents[1] / into)[1]
    assert f"nothing added to {there}" in out


def test_of_one_device_by_name_or_serial(run, tmp_path, capsys):
    for i, (device, count) in enumerate((("here", 1), ("Pixel 8 serial", 2), ("nobody", 0))):
        out = ended(capsys, "export", run, tmp_path / f"{i}", "--device", device, "--json")[1]
        assert json.loads(out)["rows"]["measurements"] == count


def test_damage_is_told(run, tmp_path, capsys):
    ended(capsys, "export", run, tmp_path / "x")
    lines = (tmp_path / "x").read_text().splitlines()
    (tmp_path / "x").write_text("\n".join([*lines[:2], "{", *lines[3:]]) + "\n")
    code, _, err = ended(capsys, "import", tmp_path / "x", tmp_path / "b.sqlite")
    assert code == 2
    assert "line 3" in err
    code, out, _ = ended(capsys, "import", tmp_path / "x", tmp_path / "b.sqlite", "--skip-damaged")
    assert code == 0
    assert "left out: line 3: it is no JSON of ours" in out


def test_merge(run, tmp_path, capsys):
    ended(capsys, "export", run, tmp_path / "x.jsonl")
    code, out, _ = ended(capsys, "merge", run, tmp_path / "x.jsonl", "-o", tmp_path / "c.sqlite")
    assert code == 0
    assert out.startswith("3 measurements, 3 trials in ")
    assert out.endswith("3 measurements, 3 trials met again\n")


def test_transfer(run, tmp_path, capsys):
    _, out, _ = ended(capsys, "transfer", run, "--json")
    found = json.loads(out)
    assert [k["trials_warm"] for k in found["kernels"]] == [2]
    assert "2 trials until within 2% of the best, at most 5" in found["summary"]
    assert "at most 5" in ended(capsys, "transfer", run)[1]
    assert ended(capsys, "transfer", tmp_path / "no.sqlite")[0] == 2


def test_names_with_brackets_are_no_markup(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with Records(tmp_path / "records.sqlite") as records:
        records.start(str((tmp_path / "run").resolve()))
        told = {"default": 1, "warm": 1, "exact": True, "from": ["[/bold]"]}
        key = measure_key("k", ARM, "[/x] phone", Protocol())
        records.add_measurement(key, GOOD.with_meta(transfer=told))
    code, out, _ = ended(capsys, "show", tmp_path / "run")
    assert code == 0
    assert "[/x] phone" in out
    code, out, _ = ended(capsys, "transfer", tmp_path / "run")
    assert code == 0
    assert "[/bold]" in out


@pytest.mark.parametrize("command", ["show", "export", "import", "merge", "transfer"])
def test_help_has_an_example(capsys, command):
    code, out, _ = ended(capsys, command, "--help")
    assert code == 0
    assert f"codesign records {command}" in " ".join(out.split())
    assert "--json" in out


def test_a_target_is_known_by_its_text_whatever_its_threads():
    from codesign.device import target_key

    assert is_for(target_key(ARM.with_threads(4)), ARM)
    assert not is_for(target_key(ZEN), ARM)
    assert not is_for("t", ARM)
    assert not is_for("[1]", ARM)
    assert readable(target_key(ZEN)) == "znver4, 1 thread"
    assert readable("t") == "t"
    assert readable("{}") == "{}"
