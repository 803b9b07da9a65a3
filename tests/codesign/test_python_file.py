"""A user's file runs once, until it changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from codesign.errors import UserError
from codesign.python_file import run_file


def test_a_file_runs_once_until_it_changes(tmp_path: Path) -> None:
    (tmp_path / "beside_once.py").write_text("RUNS = []\n")
    file = tmp_path / "mine.py"
    file.write_text("import beside_once as b\nb.RUNS.append(1)\nRUNS = b.RUNS\n")
    path = list(sys.path)
    one = run_file(file)
    assert run_file(file) is one
    assert one.RUNS == [1]
    file.write_text(file.read_text() + "MORE = True\n")
    assert run_file(file).MORE
    assert one.RUNS == [1, 1]
    assert sys.path == path
    del sys.modules["beside_once"]


def test_files_of_one_name_are_apart(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "mine.py").write_text(f"NUMBER = {number}\n")
    found = [run_file(tmp_path / str(n) / "mine.py").NUMBER for n in (1, 2)]
    assert found == [1, 2]


def test_a_file_that_raises_may_be_mended(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("1 / 0\n")
    with pytest.raises(UserError, match=r"bad\.py cannot be run") as caught:
        run_file(file)
    assert "ZeroDivisionError" in caught.value.got
    file.write_text("FINE = True\n")
    assert run_file(file).FINE


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        run_file(tmp_path / "none.py")
