"""Whole sweeps of a tiny encoder: what they leave, what they re-use, and what a stop costs."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.api import sweep_model
from codesign.bundle import open_bundle
from codesign.errors import UserError
from codesign.frontier import Frontier
from codesign.history import run_counts
from codesign.loop.outcome import SweepResult
from codesign.pareto import dominates, front_of
from codesign.progress import Silent
from codesign.runtime import Predictor
from codesign.user_code import load_function

pytestmark = pytest.mark.alone

SOURCE = '''
"""Two encoder layers with random weights; quality is agreement with their fp32 outputs."""
import numpy as np
import torch
from torch import nn

SEQ, WIDTH = 16, 64


def build():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 128, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    return encoder, {"src": torch.zeros(1, SEQ, WIDTH)}


def _inputs(seed, count):
    rng = np.random.default_rng(seed)
    draw = lambda: rng.standard_normal((1, SEQ, WIDTH)).astype(np.float32)
    return [{"src": draw()} for _ in range(count)]


def calibration():
    return _inputs(1, 8)


def quality(predict):
    encoder, _ = build()
    scores = []
    for sample in _inputs(2, 4):
        with torch.no_grad():
            wanted = encoder(torch.from_numpy(sample["src"])).numpy().ravel()
        (found,) = predict(sample).values()
        found = found.ravel()
        scores.append(found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted))
    return {"cosine": float(np.mean(scores))}
'''

FIXED = {"model", "target", "threads", "protocol", "baselines", "points"}
POINT = {
    "name", "latency_ms", "latency_interval_ms", "predicted_ms", "quality", "size_bytes", "choices",
    "bundle",
}  # fmt: skip

Quality = Callable[[Callable[[Any], Any]], Mapping[str, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "tiny.py").write_text(SOURCE)
    return folder


@pytest.fixture(scope="module")
def quality(folder: Path) -> Quality:
    return load_function(f"{folder / 'tiny.py'}:quality")


@pytest.fixture(scope="module")
def sweep(folder: Path, quality: Quality) -> Callable[..., SweepResult]:
    """Sweeps the encoder, held in memory, into a folder beside the others."""
    model = load_function(f"{folder / 'tiny.py'}:build")()
    samples = load_function(f"{folder / 'tiny.py'}:calibration")()

    def run(name: str, **settings: Any) -> SweepResult:
        defaults: dict[str, Any] = {
            "metric": "cosine",
            "trials": 1,
            "measurements": 4,
            "passes": ("ffn", "layers"),
            "progress": Silent(),
        }
        return sweep_model(
            model,
            quality=quality,
            calibration=samples,
            output=folder / "runs" / name,
            **(defaults | settings),
        )

    return run


@pytest.fixture(scope="module")
def swept(sweep: Callable[..., SweepResult]) -> SweepResult:
    return sweep("first")


def test_frontier_json_holds_every_fixed_name(swept: SweepResult) -> None:
    plain = json.loads((swept.folder / "frontier.json").read_text())
    assert set(plain) >= FIXED
    assert plain["threads"] == 1
    assert plain["protocol"]["threads"] == 1
    assert [b["name"] for b in plain["baselines"]] == ["dense", "onnxruntime fp32"]
    for baseline in plain["baselines"]:
        assert baseline["latency_ms"] > 0
        assert baseline["quality"]["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert len(plain["points"]) >= 2
    for point in plain["points"]:
        assert set(point) >= POINT
        low, high = point["latency_interval_ms"]
        assert 0 < low <= point["latency_ms"] <= high
        assert point["predicted_ms"] > 0
        for choice in point["choices"]:
            assert set(choice) == {"site", "pass", "setting"}
            assert choice["pass"] in ("ffn", "layers")
    assert Frontier.read(swept.folder / "frontier.json") == swept.frontier


def test_points_do_not_dominate_each_other(swept: SweepResult) -> None:
    pairs = [(p.latency_ms, p.quality["cosine"]) for p in swept.frontier.points]
    assert not any(dominates(a, b) for a, b in permutations(pairs, 2))
    assert [p.latency_ms for p in swept.frontier.points] == sorted(p[0] for p in pairs)


def test_no_candidate_is_measured_twice(swept: SweepResult) -> None:
    points = [*swept.frontier.points, *swept.data.others]
    assert len({p.choices for p in points}) == len(points) == 5  # the dense model and 4 candidates
    counts = run_counts(swept.folder)
    assert counts["finished"]
    assert counts["made"]["bundle"] == 5
    assert counts["again"] == {}


def test_bundles_of_points_give_the_quality_that_they_are_said_to_have(
    swept: SweepResult, quality: Quality
) -> None:
    for point in swept.frontier.points:
        bundle = open_bundle(swept.folder / point.bundle)
        assert bundle.size_bytes == point.size_bytes
        with Predictor(bundle) as predictor:
            assert quality(predictor.run)["cosine"] == pytest.approx(point.quality["cosine"])


def test_smaller_bundles_come_from_what_was_removed(swept: SweepResult) -> None:
    sizes = {p.choices: p.size_bytes for p in (*swept.frontier.points, *swept.data.others)}
    dense = sizes.pop(())
    assert all(size < dense for size in sizes.values())


def test_report_and_picture_are_written(swept: SweepResult) -> None:
    html = (swept.folder / "report.html").read_text()
    for point in swept.frontier.points:
        assert point.name in html
    assert "http://" not in html.replace("http://www.w3.org", "")  # it opens offline
    assert (swept.folder / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_another_goal_beside_it_takes_all_kernels_from_the_records(
    swept: SweepResult, sweep: Callable[..., SweepResult]
) -> None:
    assert swept.folder.exists()
    second = sweep("second", max_loss=0.01, measurements=2)
    counts = run_counts(second.folder)
    assert counts["made"].get("kernel", 0) == counts["made"].get("trial", 0) == 0
    assert counts["made"].get("sensitivity", 0) == 0
    assert counts["reused"]["kernel"] == run_counts(swept.folder)["made"]["kernel"]
    assert counts["again"] == {}
    assert any("loss" in note for note in second.data.notes)


def test_the_same_call_again_measures_no_candidate(
    swept: SweepResult, sweep: Callable[..., SweepResult]
) -> None:
    again = sweep("first")
    counts = run_counts(again.folder)
    assert counts["sessions"] == 2
    assert counts["last_session"]["made"] == {}
    assert {p.choices for p in again.frontier.points} | {p.choices for p in again.data.others} == {
        p.choices for p in (*swept.frontier.points, *swept.data.others)
    }


# size as an objective ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sized(sweep: Callable[..., SweepResult]) -> SweepResult:
    return sweep("sized", size=True, measurements=3, passes=("ffn", "codebook"))


def test_where_size_is_asked_for_codebooks_are_on_the_frontier(sized: SweepResult) -> None:
    assert sized.frontier.objectives == ("latency", "quality", "size")
    points = sized.frontier.points
    named = [p for p in points if any(c.pass_name == "codebook" for c in p.choices)]
    assert named
    (dense,) = [p for p in (*points, *sized.data.others) if not p.choices]
    assert all(p.size_bytes < dense.size_bytes for p in named)
    costs = [(p.latency_ms, -p.quality["cosine"], p.size_bytes) for p in points]
    assert len(front_of(costs)) == len(costs)
    assert any(note.startswith("smallest within") for note in sized.data.notes)
    assert "size of the bundle" in (sized.folder / "report.html").read_text()


def test_codebook_bundles_are_as_large_and_as_good_as_they_are_said_to_be(
    sized: SweepResult, quality: Quality
) -> None:
    for point in sized.frontier.points:
        folder = sized.folder / point.bundle
        assert sum(file.stat().st_size for file in folder.iterdir()) == point.size_bytes
        with Predictor(open_bundle(folder)) as predictor:
            assert quality(predictor.run)["cosine"] == pytest.approx(point.quality["cosine"])


def test_sizes_are_predicted_before_they_are_built(sized: SweepResult) -> None:
    rows = sized.data.predictions
    assert len(rows) == 3
    for row in rows:
        assert row.predicted_bytes == pytest.approx(row.measured_bytes, rel=0.15)


def test_a_limit_that_nothing_meets_is_told_with_the_smallest(
    sized: SweepResult, sweep: Callable[..., SweepResult]
) -> None:
    result = sweep("tight", max_size_mb=0.001, measurements=3, passes=("ffn", "codebook"))
    sizes = [p.size_bytes for p in result.frontier.points]
    (dense,) = [p for p in (*result.frontier.points, *result.data.others) if not p.choices]
    smallest = min(sizes)
    assert smallest < 0.8 * dense.size_bytes
    (note,) = [n for n in result.data.notes if n.startswith("no point takes at most 0.001 MB")]
    assert note.endswith(f"the smallest takes {smallest / 1e6:.3g} MB")


def test_a_model_without_weights_is_refused(folder: Path, quality: Quality) -> None:
    import torch

    with pytest.raises(UserError, match="nothing in this model") as raised:
        sweep_model(
            (torch.nn.ReLU(), (torch.zeros(2, 8),)),
            quality=quality,
            calibration=lambda: [{"input": np.zeros((2, 8), np.float32)}],
            metric="cosine",
            output=folder / "runs" / "nothing",
            progress=Silent(),
        )
    assert "compile" in raised.value.next


# stopped and taken up again ----------------------------------------------------------------------

CONFIG = """
[sweep]
model = "tiny.py:build"
target = "host"
quality = "tiny.py:quality"
calibration = "tiny.py:calibration"
passes = {passes}
output = "{run}"
trials = 1
[goal]
metric = "cosine"
[budget]
measurements = 4
"""


def _config(folder: Path, passes: list[str]) -> Path:
    (folder / "tiny.py").write_text(SOURCE)
    path = folder / "sweep.toml"
    path.write_text(CONFIG.format(passes=json.dumps(passes), run="run"))
    return path


def _start(config: Path) -> subprocess.Popen[str]:
    """The command as a user gives it, in a group of processes of its own."""
    command = [sys.executable, "-m", "codesign", "sweep", str(config)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def _stored(records: Path, table: str) -> int:
    """Rows of a table of records that another process is writing."""
    try:
        with sqlite3.connect(f"file:{records}?mode=ro", uri=True) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def _wait(process: subprocess.Popen[str], ready: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def _counts(run: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "codesign", "records", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("table", ["trials", "evaluations"])
def test_a_killed_sweep_goes_on_and_makes_nothing_again(tmp_path: Path, table: str) -> None:
    """Killed while tuning, and between the search and the finals; then the same command."""
    config, records = _config(tmp_path, ["ffn", "int8"]), tmp_path / "records.sqlite"
    first = _start(config)
    _wait(first, lambda: _stored(records, table) >= 3)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    before = {t: _stored(records, t) for t in ("trials", "measurements", "sensitivities")}
    second = _start(config)
    _, told = second.communicate(timeout=500)
    assert second.returncode == 0, told
    counts = _counts(tmp_path / "run")
    assert counts["again"] == {}
    assert counts["sessions"] == 2
    last = counts["last_session"]
    assert last["reused"]["trial"] == before["trials"]
    assert last["made"].get("trial", 0) == _stored(records, "trials") - before["trials"]
    if table == "evaluations":
        assert last["made"].get("kernel", 0) == last["made"].get("sensitivity", 0) == 0
    points = Frontier.read(tmp_path / "run" / "frontier.json").points
    assert len(points) >= 2
    for point in points:
        open_bundle(tmp_path / "run" / point.bundle)


def test_ctrl_c_ends_it_with_a_word_of_how_to_go_on(tmp_path: Path) -> None:
    config, records = _config(tmp_path, ["ffn"]), tmp_path / "records.sqlite"
    process = _start(config)
    _wait(process, lambda: _stored(records, "trials") >= 1)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "the same command goes on" in told
    assert "Traceback" not in told
    counts = run_counts(tmp_path / "run")
    assert not counts["finished"]
    assert counts["made"]["trial"] >= 1
