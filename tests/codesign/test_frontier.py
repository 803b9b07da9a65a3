import json
from dataclasses import replace

import pytest

from codesign.candidate import Choice
from codesign.errors import UserError
from codesign.frontier import Baseline, Frontier, Point

POINT = Point(
    name="p00",
    latency_ms=3.1,
    latency_interval_ms=(3.0, 3.2),
    predicted_ms=3.05,
    quality={"mrr": 0.54},
    size_bytes=22_000_000,
    choices=(Choice("layer0.ffn", "ffn", {"keep": 768}),),
    bundle="bundles/p00",
)
FRONTIER = Frontier(
    "minilm", "zen4", 1, {"repeats": 10}, (Baseline("dense", 15.0, {"mrr": 0.541}),), (POINT,)
)


def test_round_trip(tmp_path):
    assert Frontier.read(FRONTIER.write(tmp_path / "frontier.json")) == FRONTIER


def test_a_frontier_of_three_objectives_says_so(tmp_path):
    three = replace(FRONTIER, objectives=("latency", "quality", "size"))
    path = three.write(tmp_path / "frontier.json")
    assert Frontier.read(path) == three
    assert Frontier.read(path).sized
    data = json.loads(path.read_text())
    del data["objectives"]  # as older versions wrote it
    path.write_text(json.dumps(data))
    assert Frontier.read(path) == FRONTIER
    assert not FRONTIER.sized


def test_the_fixed_names(tmp_path):
    data = json.loads(FRONTIER.write(tmp_path / "frontier.json").read_text())
    fixed = {"model", "target", "threads", "protocol", "baselines", "points", "objectives"}
    assert set(data) == fixed | {"emulated"}
    assert data["emulated"] is False
    assert data["objectives"] == ["latency", "quality"]
    assert data["baselines"] == [{"name": "dense", "latency_ms": 15.0, "quality": {"mrr": 0.541}}]
    assert data["points"] == [
        {
            "name": "p00",
            "latency_ms": 3.1,
            "latency_interval_ms": [3.0, 3.2],
            "predicted_ms": 3.05,
            "quality": {"mrr": 0.54},
            "size_bytes": 22_000_000,
            "choices": [{"site": "layer0.ffn", "pass": "ffn", "setting": {"keep": 768}}],
            "bundle": "bundles/p00",
        }
    ]


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda d: d.pop("threads"), "threads"),
        (lambda d: d["points"][0].update(latency_ms="fast"), "points[0].latency_ms"),
        (lambda d: d["points"][0].update(latency_interval_ms=[1.0]), "latency_interval_ms"),
        (lambda d: d["points"][0].update(latency_interval_ms=[3.2, 3.3]), "hold the median"),
        (lambda d: d["points"][0]["quality"].update(mrr=None), "quality.mrr"),
        (lambda d: d["points"][0]["choices"][0].pop("pass"), "'pass'"),
        (lambda d: d.update(points={}), "points"),
        (lambda d: d.update(objectives=["latency", "smell"]), "objectives"),
    ],
)
def test_a_wrong_file_is_a_clear_error(tmp_path, break_it, named):
    data = json.loads(FRONTIER.write(tmp_path / "frontier.json").read_text())
    break_it(data)
    (tmp_path / "frontier.json").write_text(json.dumps(data))
    with pytest.raises(UserError) as caught:
        Frontier.read(tmp_path / "frontier.json")
    assert named in caught.value.what


def test_not_json_and_not_there(tmp_path):
    (tmp_path / "half.json").write_text('{"model": ')
    with pytest.raises(UserError, match="not JSON"):
        Frontier.read(tmp_path / "half.json")
    with pytest.raises(UserError, match="cannot read"):
        Frontier.read(tmp_path / "none.json")


def test_keys_of_a_newer_version_are_ignored(tmp_path):
    data = json.loads(FRONTIER.write(tmp_path / "frontier.json").read_text())
    data["points"][0]["energy_mj"] = 3
    (tmp_path / "frontier.json").write_text(json.dumps(data))
    assert Frontier.read(tmp_path / "frontier.json") == FRONTIER
