"""The benchmark of patterns on toy layers: every way computes the same, every row is complete."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pattern_extra
from benchmarks.clean_time import Clock, Timing
from targets.target import find


@pytest.fixture(autouse=True)
def few_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_extra, "TRIED", 1)
    monkeypatch.setattr(pattern_extra, "TILES", ((2, 1),))
    monkeypatch.setattr(pattern_extra, "BLOCKS", (16,))


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_extra, "WIDE", ((7, 4, 32),))
    monkeypatch.setattr(pattern_extra, "DEPTHWISE", ((14, 32, 3),))
    monkeypatch.setattr(pattern_extra, "SINGLE", ((7, 4, 16),))
    monkeypatch.setattr(Clock, "measure", _measured_once)
    path = tmp_path / "extra.json"
    assert pattern_extra.main(["--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    wide = [r["way"] for r in rows if r["layer"].startswith("5x5")]
    assert wide == ["dense", "11 of 25 by 16"]
    assert len(rows) == 2 + 2 + 3
    assert all(r["median_ms"] > 0 and r["gain"] > 0 for r in rows)


def _measured_once(self, call, count, limit_s):
    start = time.perf_counter()
    call()
    return Timing((time.perf_counter() - start,), 0, True)


def test_another_result_is_no_gain() -> None:
    target = find("host")
    ((dense, pruned),) = pattern_extra.depthwise((5, 32, 3), target)
    wrong = (*pruned[:2], [np.zeros_like(a) for a in pruned[2]])
    clock = Clock(target, time.thread_time)
    with pytest.raises(ValueError, match="not what dense computes"):
        list(pattern_extra.measure("toy", [dense, wrong], clock, 0.0))
