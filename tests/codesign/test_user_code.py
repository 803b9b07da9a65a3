"""The user's own functions: every way in which they can fail is told as theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.user_code import calibration_samples, evaluate, is_concurrent, load_function
from passes.model import TensorSpec

INPUTS = (TensorSpec("x", (1, 3), "float32"), TensorSpec("ids", (1, 2), "int64"))
GOOD = {"x": np.zeros((1, 3)), "ids": np.ones((1, 2), np.int32)}


def predict(inputs: Any) -> Any:
    return inputs


# calibration


def test_samples_are_a_list_in_the_models_types() -> None:
    for given in ([GOOD, GOOD], lambda: iter([GOOD, GOOD]), (s for s in [GOOD, GOOD])):
        found = calibration_samples(given, INPUTS)
        assert len(found) == 2
        assert [(n, a.dtype) for n, a in found[1].items()] == [("x", "float32"), ("ids", "int64")]


@pytest.mark.parametrize("empty", [[], lambda: [], lambda: iter(())])
def test_an_empty_set_is_refused(empty: Any) -> None:
    with pytest.raises(UserError, match="calibration set is empty") as raised:
        calibration_samples(empty, INPUTS)
    assert "100 or more" in raised.value.allowed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": GOOD["x"]}, "sample 1 has wrong inputs"),
        ({"x": np.zeros((1, 4))}, "sample 1 has a wrong shape at x"),
        ({"x": np.array([[0, np.nan, 0]])}, "sample 1 holds NaN or infinity at x"),
        ({"x": np.array([[0, np.inf, 0]])}, "sample 1 holds NaN or infinity at x"),
    ],
)
def test_a_sample_that_does_not_fit_is_named_by_its_number(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        calibration_samples([GOOD, GOOD | change], INPUTS)
    assert raised.value.got
    assert raised.value.allowed


@pytest.mark.parametrize(
    "sample", [np.zeros((1, 3)), [1, 2], None, {"x": "text", "ids": GOOD["ids"]}]
)
def test_a_sample_that_is_no_dict_of_arrays(sample: Any) -> None:
    with pytest.raises(UserError, match="calibration sample 0"):
        calibration_samples([sample], INPUTS)


def test_what_the_calibration_function_raises_is_told_with_its_place() -> None:
    def broken() -> Any:
        yield GOOD
        raise KeyError("corpus")

    with pytest.raises(UserError, match="calibration function raised KeyError") as raised:
        calibration_samples(broken, INPUTS)
    assert "corpus" in raised.value.got
    assert "test_user_code.py:" in raised.value.next
    with pytest.raises(UserError, match="calibration function raised TypeError"):
        calibration_samples(3, INPUTS)  # type: ignore[arg-type]


# quality


def test_scores_are_plain_floats() -> None:
    found = evaluate(lambda p: {"a": np.float32(0.5), "b": 1, "c": np.array(2.0)}, predict, "a")
    assert found == {"a": 0.5, "b": 1.0, "c": 2.0}
    assert {type(v) for v in found.values()} == {float}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "returned no scores"),
        (0.9, "returned no scores"),
        ({}, "returned no scores"),
        ({"b": 1.0}, "returned no a"),
        ({"a": "good"}, "returned no number for a"),
        ({"a": None}, "returned no number for a"),
        ({"a": np.zeros(2)}, "returned no number for a"),
        ({"a": float("nan")}, "no number"),
        ({"a": 1.0, "b": float("inf")}, "no number"),
    ],
)
def test_scores_that_cannot_be_used(scores: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        evaluate(lambda p: scores, predict, "a")
    assert raised.value.got


def test_what_the_quality_function_raises_is_told_with_its_place() -> None:
    with pytest.raises(UserError, match="quality function raised ZeroDivisionError") as raised:
        evaluate(lambda p: {"a": 1 / 0}, predict, "a")
    assert "test_user_code.py:" in raised.value.next


def test_an_error_of_predict_keeps_its_own_words() -> None:
    def refuse(inputs: Any) -> Any:
        raise UserError("the inputs have wrong names", got="y")

    with pytest.raises(UserError, match="the inputs have wrong names"):
        evaluate(lambda p: p({}), refuse, "a")


def test_functions_are_called_one_at_a_time_unless_they_allow_more() -> None:
    def quality(p: Any) -> dict[str, float]:
        return {}

    assert not is_concurrent(quality)
    quality.concurrent = True  # type: ignore[attr-defined]
    assert is_concurrent(quality)


# files


def test_a_file_is_run_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("calls = []\ncalls.append(1)\ndef count(): return len(calls)\nvalue = 3\n")
    assert load_function(f"{path}:count")() == 1
    assert load_function(f"{path}:count")() == 1
    with pytest.raises(UserError, match="has no function gone") as raised:
        load_function(f"{path}:gone")
    assert "count" in raised.value.allowed
    with pytest.raises(UserError, match="has no function value"):
        load_function(f"{path}:value")


def test_a_file_beside_it_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "data_beside.py").write_text("N = 7\n")
    (tmp_path / "main_file.py").write_text("from data_beside import N\ndef f(): return N\n")
    assert load_function(f"{tmp_path / 'main_file.py'}:f")() == 7


def test_a_file_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(UserError, match=r"bad\.py cannot be run") as raised:
        load_function(f"{tmp_path / 'bad.py'}:f")
    assert "nothing_of_this_name" in raised.value.got
    with pytest.raises(UserError, match="no such Python file"):
        load_function(f"{tmp_path / 'gone.py'}:f")
