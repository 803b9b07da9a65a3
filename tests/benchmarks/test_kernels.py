"""The kernel benchmark on a toy encoder: every kernel is right, every row is complete."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks import kernel_cases, kernels
from benchmarks.clean_time import Clock
from benchmarks.kernel_cases import Encoder, cases
from targets.target import host


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernel_cases.ENCODERS, "toy", Encoder(hidden=64, ffn=128, heads=2))
    path = tmp_path / "out" / "kernels.json"
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(Clock, "measure", _measured_once)
    assert kernels.main(["--shapes", "toy", "--quick", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert len(rows) == len(list(cases("toy", host().block)))
    assert {r["dtype"] for r in rows} == {"float32", "int8"}
    for row in rows:
        assert row["runtime"] == "codesign"
        assert row["threads"] == 1
        assert row["error"] < 1e-5, row["kernel"]
        low, high = row["interval_ms"]
        assert 0 < low <= row["median_ms"] <= high
        products = row["kernel"].startswith(("dense", "sparse", "attention"))
        assert (row["gops"] is not None) == products
        if products and (row["dtype"] == "float32" or host().has_vnni):
            assert row["share_of_peak"] > 0


def _measured_once(self, call, count, limit_s):
    from benchmarks.clean_time import Timing

    start = time.perf_counter()
    call()
    return Timing((time.perf_counter() - start,), 0, True)


def test_disturbed_calls_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(host())
    probes = iter([1.0, 1.0, 1.5, 1.0, 1.0, 1.0] * 50)
    clock.best = 1.0
    monkeypatch.setattr(clock, "_probe", lambda: next(probes))
    timing = clock.measure(lambda: time.sleep(1e-4), 3, 10)
    assert timing.clean
    assert len(timing.samples) == 3
    assert timing.disturbed == 3


def test_without_a_quiet_moment_the_fastest_quarter_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(host())
    clock.best = 1.0
    monkeypatch.setattr(clock, "_probe", lambda: 1.2)
    timing = clock.measure(lambda: time.sleep(1e-3), 3, 0.05)
    assert not timing.clean
    assert timing.samples
    assert timing.disturbed > len(timing.samples)


@pytest.mark.parametrize("options", [["--target", "nonsense"], ["--shapes", "nonsense"]])
def test_bad_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = kernels.main(options)
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert "nonsense" in capsys.readouterr().err
