"""Measurements per second: every kernel once, on all devices, and the table says what limits them."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace

import pytest

from benchmarks import device_throughput
from benchmarks.device_throughput import Row, main, notes, table, throughput

ONE = Row(1, False, 8, 8, 4.0, {"a": 8}, {"a": 150.0}, 0.0, ())
MANY = Row(64, False, 8, 8, 2.0, {f"d{i}": 1 for i in range(64)}, {"d0": 150.0}, 0.0, ())


def cells(made, heading):
    return next(list(c.cells) for c in made.columns if c.header == heading)


def test_the_table_compares_with_one_device():
    made = table([ONE, MANY])
    assert cells(made, "per second") == ["2.00", "4.00"]
    assert cells(made, "of one device's") == ["1.00x", "2.00x"]
    assert "native" in str(made.title)
    assert cells(table([MANY]), "of one device's") == [""]


def test_it_says_what_limits_the_figures():
    said = "\n".join(notes([ONE, MANY]))
    assert "With 64 devices on" in said
    assert "Every measurement in the records says which device" in said
    assert "emulator" not in said
    assert "Others kept" not in said
    assert "With" not in "\n".join(notes([ONE]))
    assert "Others kept" in "\n".join(notes([replace(ONE, busy=1.5)]))
    assert "say nothing about any device" in "\n".join(notes([replace(ONE, emulated=True)]))
    assert "Not every device measured" in "\n".join(notes([replace(ONE, devices=2)]))
    assert "1 devices: it fell" in "\n".join(notes([replace(ONE, incidents=("it fell",))]))


def test_all_devices_measure_and_nothing_is_lost():
    if (sys.platform, platform.machine()) not in {("linux", "x86_64"), ("linux", "aarch64")}:
        pytest.skip(f"no server of ours measures on {sys.platform} {platform.machine()}")
    row = throughput(2, 6)
    assert (row.measured, row.asked) == (6, 6)
    assert sum(row.each.values()) == 6
    assert set(row.each) == set(row.reference_us) <= {"native-1", "native-2"}
    assert all(us > 0 for us in row.reference_us.values())
    assert row.rate > 0
    assert not row.emulated


def test_the_command_writes_json(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(device_throughput, "throughput", lambda *given: asked.append(given) or ONE)
    path = tmp_path / "rows.json"
    main(["--devices", "1", "--kernels", "8", "--emulated", "--json", str(path)])
    assert asked == [(1, 8, True)]
    told = json.loads(path.read_text())
    assert told["rows"][0]["per_second"] == 2.0
    assert told["processors"] >= 1
    assert "measurements per second" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--devices", "0"], ["--kernels", "0"]])
def test_less_than_one_is_refused(words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
