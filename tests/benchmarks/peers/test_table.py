"""Rows, verdict and table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.artifacts import Artifact
from benchmarks.peers.contestants import Contestant, ours
from benchmarks.peers.interleave import Sweep, Sweeps
from benchmarks.peers.table import Row, best, row, text, verdict

ERROR = {"relative": 0.01, "max_abs": 0.1, "rms": 0.02, "lowest_cosine": 0.99}
LOADED = {"load_s": 0.5, "peak_memory_mb": 200.0, "import_memory_mb": 50.0}
SLOW, FAST = Contestant("onnxruntime", "fp32", "", "x"), Contestant("litert", "fp32", "", "y")
MINE = ours("fp32", "b")
SWEEPS = Sweeps(
    [Sweep({SLOW.name: 4.0 * drift, FAST.name: 2.0 * drift, MINE.name: 1.0 * drift}, 0.0)
     for drift in (1.0, 1.5, 2.0)], 1, True,
)  # fmt: skip


def rows(model: str = "minilm") -> list[Row]:
    artifact = Artifact(Path(__file__), 3.0)
    return [row(model, 1, c, artifact, LOADED, ERROR, SWEEPS) for c in (SLOW, FAST, MINE)]


def test_row_has_the_fields_others_rely_on() -> None:
    first = rows()[0]
    expected = {
        "model": "minilm", "runtime": "onnxruntime", "dtype": "fp32", "threads": 1,
        "median_ms": 6.0, "interval_ms": [4.0, 8.0], "error": 0.01, "weights": "pretrained",
        "sweeps": 3, "sweeps_discarded": 1,
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected


def test_random_weights_have_no_quality() -> None:
    assert rows("bert-base")[0]["weights"] == "random"
    assert rows("bert-base")[0]["lowest_cosine"] is None


def test_best_keeps_ours_and_theirs_apart() -> None:
    fastest, own = best(rows(), False, "fp32"), best(rows(), True, "fp32")
    assert fastest is not None
    assert own is not None
    assert (fastest["runtime"], own["runtime"]) == ("litert", "codesign")
    assert best(rows(), True, "int8") is None


def test_best_takes_static_int8_as_int8() -> None:
    static = {**rows()[1], "dtype": "int8 static"}
    assert best([static], False, "int8") is static


def test_verdict_is_the_ratio_within_sweeps() -> None:
    (line,) = verdict(rows(), SWEEPS)  # the drift between sweeps cancels
    assert line.startswith("codesign fp32 takes 0.500 [0.500, 0.500] of the time of litert fp32")


def test_table_lists_the_fastest_first() -> None:
    lines = text(rows()).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["codesign", "litert", "onnxruntime"]
    assert lines[1].split()[2] == "1.50"


@pytest.mark.parametrize("model", ["minilm", "bert-base"])
def test_table_prints_every_model(model: str) -> None:
    assert len(text(rows(model)).splitlines()) == 4
