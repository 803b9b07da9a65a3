"""The convolution benchmark on a toy layer: every way is right, every row is complete."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import conv_cases, conv_layers
from benchmarks.clean_time import Clock, Timing
from benchmarks.conv_cases import BLOCKS, DENSE, ONNXRUNTIME, kept


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conv_cases.LAYERS, "toy", ((5, 3, 20), (7, 18, 40)))
    path = tmp_path / "out" / "conv.json"
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(Clock, "measure", _measured_once)
    assert conv_layers.main(["--models", "toy", "--quick", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    patterns = len(BLOCKS) + 1
    assert len(rows) == (2 + patterns) + (2 + 2 * patterns)
    assert len({(r["layer"], r["way"]) for r in rows}) == len(rows)
    for row in rows:
        assert row["error"] < 1e-5, row["way"]
        low, high = row["interval_ms"]
        assert 0 < low <= row["median_ms"] <= high
        assert row["share_of_peak"] > 0
        if row["way"] == DENSE:
            assert row["over_dense"] == 1
        if row["way"] == ONNXRUNTIME:
            assert row["over_onnxruntime"] == 1


def _measured_once(self, call, count, limit_s):
    start = time.perf_counter()
    call()
    return Timing((time.perf_counter() - start,), 0, True)


def test_kept_inputs_are_patterns_of_some_channels() -> None:
    mask = kept(5, 12, 7, np.random.default_rng(1)).reshape(5, 12, 9)
    taps = mask.sum(axis=2)
    assert ((taps == 0) | (taps == 4)).all()
    assert ((taps == 4).sum(axis=1) == 7).all()
    assert (mask[..., 4] == (taps > 0)).all()


@pytest.mark.parametrize("options", [["--target", "nonsense"], ["--models", "nonsense"]])
def test_bad_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = conv_layers.main(options)
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert "nonsense" in capsys.readouterr().err
