"""Sizes, and when a conversion is made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.peers import artifacts, environments
from benchmarks.peers.artifacts import Artifact
from benchmarks.peers.environments import EnvironmentFailedError


def test_size_counts_the_weights_beside_the_graph(tmp_path: Path) -> None:
    files = {"m.xml": 3, "m.bin": 40, "m.onnx": 50, "n.ncnn.param": 5, "n.ncnn.bin": 60}
    for name, size in files.items():
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "bundle" / "deep").mkdir(parents=True)
    (tmp_path / "bundle" / "deep" / "w").write_bytes(b"x" * 7)
    names = ("m.xml", "n.ncnn.param", "m.onnx", "bundle")  # m.bin belongs to m.xml only
    assert [Artifact(tmp_path / name, 0).size_bytes for name in names] == [43, 65, 50, 7]


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run, in a home of their own."""
    ran: list[list[str]] = []

    def run(command: list[str], name: str, environment: object) -> str:
        ran.append(command)
        return 'chatter {"not": "this"}\n{"int8.onnx": 4.5}\n'

    monkeypatch.setattr(artifacts, "HOME", tmp_path)
    monkeypatch.setattr(artifacts, "make", lambda environment: None)
    monkeypatch.setattr(artifacts, "_run", run)
    return ran


def test_a_conversion_is_kept(conversions: list[list[str]], tmp_path: Path) -> None:
    first = artifacts.converted("onnxruntime", "minilm")
    second = artifacts.converted("onnxruntime", "minilm")
    assert len(conversions) == 1
    assert first == second
    assert first == {"int8.onnx": Artifact(tmp_path / "artifacts/minilm/int8.onnx", 4.5)}


def test_another_model_is_another_conversion(conversions: list[list[str]]) -> None:
    artifacts.converted("onnxruntime", "minilm")
    artifacts.converted("onnxruntime", "bert-base")
    assert [command[-2] for command in conversions] == ["minilm", "bert-base"]


def test_a_changed_key_converts_again(conversions: list[list[str]], tmp_path: Path) -> None:
    artifacts.converted("onnxruntime", "minilm")
    note = tmp_path / "artifacts/minilm/onnxruntime.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "key": "of yesterday"}))
    artifacts.converted("onnxruntime", "minilm")
    assert len(conversions) == 2


def test_the_key_depends_on_pins_and_step() -> None:
    keys = {
        artifacts._key("onnxruntime", environments.REFERENCE),
        artifacts._key("openvino", environments.REFERENCE),
        artifacts._key("openvino", environments.RUNTIMES["openvino"]),
    }
    assert len(keys) == 3


def test_a_failed_command_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "HOME", tmp_path)
    with pytest.raises(EnvironmentFailedError, match=r"step\.log"):
        artifacts._run(["/bin/sh", "-c", "echo broken >&2; exit 3"], "step", None)
    assert (tmp_path / "step.log").read_text() == "broken\n"
