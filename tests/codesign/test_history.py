"""Counts of a run: made, reused, and made again although there was a record."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from codesign.errors import UserError
from codesign.history import counts_table, run_counts
from codesign.measurement import Measurement, Protocol
from codesign.records import Records
from codesign.records.entries import MeasureKey, Trial


def key(name: str) -> MeasureKey:
    return MeasureKey(name, "target", "device", Protocol().to_json(), {"tvm": "1"})


TIME = Measurement(1e-3, 1e-3, 1e-3, (1e-3,))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two sessions of a run: the first stopped after two kernels, the second made one more."""
    run, path = tmp_path / "run", tmp_path / "records.sqlite"
    run.mkdir()
    with Records(path) as records:
        records.start(str(run), "codesign sweep", {})
        for name in ("a", "b"):
            records.add_trial(key(name), Trial("{}", TIME))
            records.add_measurement(key(name), TIME)
    with Records(path) as records:
        records.start(str(run), "codesign sweep", {})
        for name in ("a", "b", "c"):
            if records.find_measurement(key(name)) is None:
                records.add_measurement(key(name), TIME)
    return run


def test_counts_of_a_run_and_of_its_last_session(run: Path) -> None:
    counts = run_counts(run)
    assert counts["run"] == str(run)
    assert counts["sessions"] == 2
    assert counts["finished"] is False
    assert counts["made"] == {"kernel": 3, "trial": 2}
    assert counts["again"] == {}
    assert counts["last_session"]["made"] == {"kernel": 1}
    assert counts["last_session"]["reused"] == {"kernel": 2}


def test_a_measurement_made_again_shows(run: Path) -> None:
    with Records(run.parent / "records.sqlite") as records:
        records.start(str(run), "codesign sweep", {})
        records.add_measurement(key("a"), TIME)
        records.finish(str(run))
    counts = run_counts(run)
    assert counts["again"] == counts["last_session"]["again"] == {"kernel": 1}
    assert counts["finished"] is True


def test_records_elsewhere(run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other.sqlite"
    (run.parent / "records.sqlite").rename(elsewhere)
    with pytest.raises(UserError, match="no records beside this run"):
        run_counts(run)
    assert not (run.parent / "records.sqlite").exists()  # asking makes no file
    assert run_counts(run, elsewhere)["sessions"] == 2


def test_an_unknown_run_lists_the_known(run: Path) -> None:
    with pytest.raises(UserError, match="know no such run") as raised:
        run_counts(run.parent / "other")
    assert str(run) in raised.value.allowed


def test_the_table_has_a_row_for_each_kind(run: Path) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(counts_table(run_counts(run)))
    text = console.export_text()
    assert "2 session(s), not finished" in text.replace("\n", " ")
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in text.splitlines()
            if line.startswith("│")}  # fmt: skip
    assert [int(c) for c in rows["kernel"]] == [3, 2, 0, 1, 2]
    assert [int(c) for c in rows["trial"]] == [2, 0, 0, 0, 0]
