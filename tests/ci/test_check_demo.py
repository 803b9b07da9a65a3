"""The check of what `make demo` leaves."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "check_demo.py"

POINT: dict[str, Any] = {
    "name": "p0", "latency_ms": 2.0, "latency_interval_ms": [1.9, 2.1], "predicted_ms": 2.0,
    "quality": {"mrr": 0.5}, "size_bytes": 10, "choices": [], "bundle": "bundles/p0",
}  # fmt: skip
FRONTIER: dict[str, Any] = {
    "model": "m", "target": "host", "threads": 1, "protocol": {},
    "baselines": [{"name": "dense", "latency_ms": 8.0, "quality": {"mrr": 0.5}}],
    "points": [POINT, {**POINT, "name": "p1"}],
}  # fmt: skip


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leave(run: Path, frontier: dict[str, Any]) -> Path:
    (run / "bundles" / "p0").mkdir(parents=True)
    (run / "bundles" / "p0" / "manifest.json").write_text("{}")
    for name in ("report.html", "frontier.png"):
        (run / name).write_text("x")
    (run / "frontier.json").write_text(json.dumps(frontier))
    return run


def test_a_complete_run(check: ModuleType, tmp_path: Path) -> None:
    assert check.problems(leave(tmp_path, FRONTIER)) == []


def test_an_empty_folder(check: ModuleType, tmp_path: Path) -> None:
    assert len(check.problems(tmp_path)) == 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: f.pop("protocol"), "frontier.json has no protocol"),
        (lambda f: f.update(baselines=[]), "there is no baseline"),
        (lambda f: f["points"].pop(), "a frontier of 1 points"),
        (lambda f: f["points"][1].pop("predicted_ms"), "point p1 has no predicted_ms"),
        (
            lambda f: f["points"][1].update(latency_ms=3.0),
            "point p1: its latency lies outside its interval",
        ),
        (lambda f: f["points"][1].update(bundle="bundles/no"), "point p1: its bundle is missing"),
    ],
)
def test_what_is_wrong_is_named(
    check: ModuleType, tmp_path: Path, change: Any, problem: str
) -> None:
    frontier = copy.deepcopy(FRONTIER)
    change(frontier)
    assert check.problems(leave(tmp_path, frontier)) == [problem]
