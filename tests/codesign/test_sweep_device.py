"""A whole sweep over RPC: a tiny encoder on a server of ours, with what that leaves."""

from __future__ import annotations

import json
import re
import sqlite3

import pytest

from benchmarks.faults.farm import KEY
from codesign.bundle import open_bundle
from codesign.cli import main
from codesign.frontier import Frontier
from codesign.history import run_counts
from codesign.loop.agreement import EXACT
from codesign.loop.workshop import twin_of

pytestmark = pytest.mark.slow

SOURCE = '''
"""Two layers of an encoder with random weights; quality is agreement with their outputs."""
import numpy as np
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    return encoder, {"src": torch.zeros(1, 9, 32)}


def _inputs(seed, count):
    rng = np.random.default_rng(seed)
    return [{"src": rng.standard_normal((1, 9, 32)).astype(np.float32)} for _ in range(count)]


def calibration():
    return _inputs(1, 4)


def quality(predict):
    encoder, _ = build()
    errors = []
    for sample in _inputs(2, 3):
        with torch.no_grad():
            wanted = encoder(torch.from_numpy(sample["src"])).numpy()
        (found,) = predict(sample).values()
        errors.append(np.square(found - wanted).sum() / np.square(wanted).sum())
    return {"agreement": 1 - float(np.mean(errors))}
'''

CONFIG = """
[sweep]
model = "tiny.py:build"
target = "host"
quality = "tiny.py:quality"
calibration = "tiny.py:calibration"
output = "runs/first"
trials = 1
passes = ["ffn"]
device = "{key}"
tracker = "{tracker}"

[goal]
metric = "agreement"

[budget]
measurements = 2
"""


@pytest.fixture(scope="module")
def swept(farm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.py").write_text(SOURCE)
    (folder / "sweep.toml").write_text(CONFIG.format(key=KEY, tracker=farm.tracker))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["codesign", "sweep", str(folder / "sweep.toml"), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return folder / "runs" / "first"


def test_a_sweep_over_rpc_has_points_of_the_device_and_twins_for_here(swept):
    frontier = Frontier.read(swept / "frontier.json")
    assert frontier.points
    for point in frontier.points:
        assert point.latency_ms > 0
        bundle = open_bundle(swept / point.bundle)
        assert bundle.size_bytes == point.size_bytes
    every = [p.parent for p in (swept / "bundles" / "all").glob("*/manifest.json")]
    assert len(every) == 3  # the dense model and two candidates
    for path in every:
        twin = open_bundle(twin_of(path))
        made = open_bundle(path)
        assert set(twin.weights()) == set(made.weights())


def test_each_was_compared_with_its_twin(swept):
    counts = run_counts(swept)
    assert counts["finished"]
    assert counts["made"]["bundle"] == 3
    assert counts["again"] == {}
    with sqlite3.connect(swept.parent / "records.sqlite") as records:
        kept = [line for line in records.iterdump() if '"difference"' in line]
    differences = [
        float(d) for line in kept for d in re.findall(r'"difference": ?([-.e0-9]+)', line)
    ]
    assert len(differences) >= 2
    assert all(0 <= d < EXACT for d in differences)


def test_its_report_says_which_device_and_what_went_wrong(swept):
    plain = json.loads((swept / "report.json").read_text())
    device = plain["device"]
    assert device["device"].startswith(f"{KEY} over RPC: ")
    assert device["emulated"] is False
    assert device["devices"]["one"].startswith("reference kernel ")
    assert device["supervision"]["incidents"] == []
    html = (swept / "report.html").read_text()
    assert device["device"] in html
    assert "over RPC" in html
