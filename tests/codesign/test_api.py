"""The names of the Python API, and what keeps the scores of different functions apart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import codesign
from codesign import api
from codesign.config import PASSES
from codesign.errors import UserError
from codesign.loop.request import SweepRequest

FIRST = """
def quality(predict):
    return {"score": sum(predict(x)["y"] for x in range(3) if x in {"a", "b", "c", "d"})}
"""


def made(source: str) -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "user.py", "exec"), names)
    return names["quality"]


def test_everything_in_all_can_be_had() -> None:
    assert 10 <= len(codesign.__all__) <= 14
    for name in codesign.__all__:
        assert callable(getattr(codesign, name)), name
    assert set(codesign.__all__) <= set(dir(codesign))
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = codesign.quantise


@pytest.mark.parametrize(
    ("old", "new"),
    [("range(3)", "range(4)"), ("sum(", "max("), ('"score"', '"other"'), ('["y"]', '["z"]')],
)
def test_a_changed_function_has_another_tag(old: str, new: str) -> None:
    assert old in FIRST
    changed = made(FIRST.replace(old, new))
    assert api._tag(made(FIRST), "") == api._tag(made(FIRST), "")
    assert api._tag(made(FIRST), "") != api._tag(changed, "")
    assert api._tag(made(FIRST), "dev") != api._tag(made(FIRST), "test")


def test_the_tag_of_a_function_is_the_same_in_every_process() -> None:
    """Or a sweep that goes on would ask for all scores again."""
    program = (
        "from codesign import api\n"
        f"names = {{}}\nexec(compile({FIRST!r}, 'user.py', 'exec'), names)\n"
        "print(api._tag(names['quality'], 'dev'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == api._tag(made(FIRST), "dev")


def test_a_callable_object_has_a_tag_too() -> None:
    class Score:
        def __call__(self, predict: Any) -> dict[str, float]:
            return {"score": 1.0}

    assert api._tag(Score(), "") == api._tag(Score(), "")


def test_the_arguments_become_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SweepRequest] = []
    monkeypatch.setattr(api, "sweep_request", lambda request, progress: seen.append(request))
    scores = made(FIRST)
    samples = [{"x": 1}]
    api.sweep_model(
        "net.onnx",
        quality=scores,
        calibration=samples,
        metric="score",
        max_loss=0.02,
        minutes=3.0,
        passes=("int8",),
        output="runs/x",
        dims={"batch": 2},
    )
    (request,) = seen
    assert request.model == "net.onnx"
    assert (request.config.goal.metric, request.config.goal.max_loss) == ("score", 0.02)
    assert request.config.budget.minutes == 3.0
    assert request.config.passes == ("int8",)
    assert dict(request.config.dims) == {"batch": 2}
    assert list(request.calibration()) == samples
    assert request.search_quality == request.quality
    api.sweep_model(
        ("module", ()), quality=scores, search_quality=made("def quality(p): return {}"),
        calibration=lambda: samples, metric="score",
    )  # fmt: skip
    assert seen[1].search_quality.tag != seen[1].quality.tag
    assert seen[1].config.passes == PASSES
    assert list(seen[1].calibration()) == samples


@pytest.mark.parametrize(
    "wrong",
    [
        {"passes": ("prune",)},
        {"threads": 0},
        {"max_loss": 2.0},
        {"measurements": 0},
        {"trials": -1},
    ],
)
def test_impossible_settings_are_refused_as_in_a_sweep_file(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        api.sweep_model("net.onnx", quality=made(FIRST), calibration=[], metric="score", **wrong)
