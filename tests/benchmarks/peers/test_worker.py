"""A contestant's process: a real one, on a tiny model of ONNX Runtime."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.environments import variables
from benchmarks.peers.process import ContestantFailedError, Process
from benchmarks.peers.worker import peak_memory_mb

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOKENS = 6


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    with (
        (tmp_path / "log").open("w") as log,
        Process(Path(sys.executable), variables(), log) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model that returns its ids as floats [1, S, 1], and what it should return, half off."""
    folder = tmp_path_factory.mktemp("model")
    helper, kind = onnx.helper, onnx.TensorProto
    ids, mask = (
        helper.make_tensor_value_info(name, kind.INT64, [1, TOKENS])
        for name in ("input_ids", "attention_mask")
    )
    out = helper.make_tensor_value_info("hidden", kind.FLOAT, [1, TOKENS, 1])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["float"], to=kind.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["hidden"]),
    ]
    shape = helper.make_tensor("shape", kind.INT64, [3], [1, TOKENS, 1])
    graph = helper.make_graph(nodes, "ids", [ids, mask], [out], [shape])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "m.onnx")
    rows = np.arange(1, 3 * TOKENS + 1).reshape(3, TOKENS)
    expected = rows[:, :, None].astype(np.float32)
    expected[2, 1] -= 0.5
    expected[2, 5] -= 100  # padding
    real = np.ones_like(rows)
    real[2, 5] = 0
    np.savez(folder / "check.npz", input_ids=rows, attention_mask=real, expected=expected)
    return str(folder / "m.onnx"), str(folder / "check.npz")


def test_load_run_and_check(process: Process, files: tuple[str, str]) -> None:
    path, data = files
    loaded = process.ask(
        "load", 60, runtime="onnxruntime", path=path, threads=1, options={}, data=data
    )
    assert 0 < loaded["import_memory_mb"] <= loaded["peak_memory_mb"]
    times = process.ask("block", 60, seconds=0.0, calls=7)["ms"]
    assert len(times) == 7
    assert min(times) > 0
    error = process.ask("check", 60)
    assert error["max_abs"] == pytest.approx(0.5)
    assert error["relative"] == pytest.approx(0.5 / 17)


def test_an_error_inside_is_told(process: Process) -> None:
    with pytest.raises(ContestantFailedError, match="ModuleNotFoundError"):
        process.ask("load", 60, runtime="nobody", path="", threads=1, options={}, data="")


def test_a_worker_that_hangs_is_killed(process: Process, files: tuple[str, str]) -> None:
    path, data = files
    process.ask("load", 60, runtime="onnxruntime", path=path, threads=1, options={}, data=data)
    with pytest.raises(ContestantFailedError, match="ended"):
        process.ask("block", 0.5, seconds=3600.0, calls=1)


def test_a_dead_worker_is_an_error(process: Process) -> None:
    os.kill(process.pid, 9)
    with pytest.raises(ContestantFailedError):
        process.ask("block", 5, seconds=0.0, calls=1)


def test_peak_memory_never_falls() -> None:
    before = peak_memory_mb()
    block = np.ones(30 * 2**17)  # 30 MiB
    del block
    assert peak_memory_mb() >= before
    assert peak_memory_mb() > 30
