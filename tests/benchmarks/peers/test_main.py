"""The command line of the comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import artifacts
from benchmarks.peers.artifacts import Artifact
from benchmarks.peers.environments import EnvironmentFailedError


def test_bundles_are_names_and_folders(tmp_path: Path) -> None:
    args = command.parse(["--bundle", f"int8 p03={tmp_path}", "--bundle", f"fp32={tmp_path}"])
    assert args.bundle == [("int8 p03", tmp_path), ("fp32", tmp_path)]


@pytest.mark.parametrize("value", ["fp32", "fp32=/no/such/folder", "=x"])
def test_a_bad_bundle_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.parse(["--bundle", value])
    assert exit_.value.code == 2
    assert "name=folder" in capsys.readouterr().err


def made(names: dict[str, list[str]]) -> Any:
    """A stand-in for `artifacts.converted`; a runtime without an entry fails."""

    def converted(runtime: str, model: str) -> dict[str, Artifact]:
        if runtime not in names:
            raise EnvironmentFailedError(f"{runtime} cannot be had")
        return {name: Artifact(Path(name), 1.0) for name in names[runtime]}

    return converted


@pytest.fixture
def nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"model.onnx": Artifact(Path("model.onnx"), 1.0)}
    monkeypatch.setattr(artifacts, "reference", lambda model: base)
    monkeypatch.setattr(command, "make", lambda environment: None)


def test_what_is_required_and_missing_is_named(
    nothing_is_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = made({"onnxruntime": ["int8.onnx"], "openvino": ["model.xml", "weights8.xml"]})
    monkeypatch.setattr(artifacts, "converted", fake)
    ready, missing = command.gather(command.parse(["--no-ours"]))
    names = {contestant.name for contestant, _ in ready}
    assert {"onnxruntime fp32", "onnxruntime int8", "openvino fp32", "openvino int8"} <= names
    assert missing == ["litert fp32", "litert int8", "openvino int8 static"]


def test_given_bundles_replace_our_own_compilation(
    nothing_is_installed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(artifacts, "our_bundles", pytest.fail)
    args = command.parse(["--peers", "--bundle", f"int8={tmp_path}"])
    ready, missing = command.gather(args)
    assert [(c.name, a.path) for c, a in ready] == [("codesign int8", tmp_path)]
    assert not missing


ROW = {
    "runtime": "litert", "dtype": "fp32", "median_ms": 2.0, "interval_ms": [1.0, 3.0],
    "error": float("nan"), "error_rms": 0.0, "lowest_cosine": None, "memory_mb": 1.0,
    "convert_s": float("nan"), "load_s": 1.0, "how": "x", "quiet": False,
}  # fmt: skip


def test_rows_are_written_even_if_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "compare", lambda args: ([dict(ROW)], [], ["openvino fp32"]))
    file = tmp_path / "rows.json"
    assert command.main(["--json", str(file)]) == 1
    (row,) = json.loads(file.read_text())
    assert row["median_ms"] == 2.0
    assert row["error"] is None  # JSON has no NaN
    printed = capsys.readouterr()
    assert "openvino fp32" in printed.err
    assert "do not quote" in printed.out


def test_all_there_is_exit_code_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "compare", lambda args: ([{**ROW, "quiet": True}], [], []))
    assert command.main([]) == 0
