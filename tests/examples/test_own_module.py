"""The example with one's own module."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_module.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_module", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_labels_are_the_most_frequent_symbol(example: ModuleType) -> None:
    symbols, labels = example.sequences(50, seed=7)
    for row, label in zip(symbols.tolist(), labels.tolist(), strict=True):
        counts = Counter(row)
        assert counts[label] == max(counts.values())


def test_quality_counts_right_answers(example: ModuleType) -> None:
    def oracle(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": np.bincount(inputs["symbols"][0], minlength=example.SYMBOLS)[None]}

    def contrary(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": -oracle(inputs)["logits"]}

    assert example.quality(oracle) == {"accuracy": 1.0}
    assert example.quality(contrary)["accuracy"] == 0.0


def test_model_learns_and_exports(example: ModuleType) -> None:
    module, inputs = example.model(steps=3)
    program = torch.export.export(module, (), kwargs=inputs)
    np.testing.assert_allclose(
        program.module()(**inputs).detach(), module(**inputs).detach(), atol=1e-5
    )
    assert not module.training
    assert all(sample["symbols"].shape == (1, example.LENGTH) for sample in example.calibration())
