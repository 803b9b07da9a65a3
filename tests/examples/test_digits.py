"""The digits: how they are cut and scored, and that the models train, repeat and export."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("digits")


@pytest.fixture
def models(digits: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = importlib.import_module("digits_models")
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "weights")
    return module


def test_parts_share_no_image_and_hold_every_digit_alike(digits: ModuleType) -> None:
    parts = digits.splits()
    sizes = {name: len(part.labels) for name, part in parts.items()}
    assert sizes == {"test": 720, "search": 300, "training": 777}
    for part in parts.values():
        counts = np.bincount(part.labels, minlength=10) / len(part.labels)
        assert abs(counts - 0.1).max() < 0.01
        assert (part.pixels.min(), part.pixels.max()) == (0, 1)
    every = np.concatenate([part.pixels for part in parts.values()])
    assert len(np.unique(every.reshape(1797, -1), axis=0)) == 1797


def test_calibration_uses_no_image_of_a_score(digits: ModuleType) -> None:
    samples = list(digits.calibration())
    assert len(samples) == digits.CALIBRATION_IMAGES
    assert all(sample["image"].shape == (1, 1, 16, 16) for sample in samples)
    scored = np.concatenate([digits.splits()[name].pixels for name in ("test", "search")])
    used = np.concatenate([sample["image"] for sample in samples])
    assert not (used.reshape(len(used), 1, -1) == scored.reshape(1, len(scored), -1)).all(2).any()


def test_enlarged_is_bilinear(digits: ModuleType) -> None:
    images = np.random.default_rng(0).random((3, 5, 8), dtype=np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(images)[:, None], scale_factor=2, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(digits.enlarged(images), wanted[:, 0], atol=1e-6)


def test_scores_are_those_of_pytorch(digits: ModuleType) -> None:
    rng = np.random.default_rng(1)
    logits, labels = 30 * rng.standard_normal((50, 10)), rng.integers(0, 10, 50)
    scores = digits.classification_scores(logits, labels)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    assert np.log(scores["likelihood"] / 100) == pytest.approx(-loss.item())
    assert scores["accuracy"] == pytest.approx(100 * (logits.argmax(axis=1) == labels).mean())


def test_an_oracle_scores_all_and_constant_or_broken_outputs_nothing(digits: ModuleType) -> None:
    images = digits.splits()["search"]
    answers = iter(np.eye(10)[images.labels])
    perfect = digits.score(lambda _: {"logits": 50 * next(answers)[None]}, images)
    assert perfect == {"accuracy": 100, "likelihood": pytest.approx(100)}
    constant = digits.score(lambda _: {"logits": np.ones((1, 10))}, images)
    assert constant == {"accuracy": 0, "likelihood": pytest.approx(10)}
    broken = digits.score(lambda _: {"logits": np.full((1, 10), np.nan)}, images)
    assert all(math.isnan(value) for value in broken.values())


@pytest.mark.parametrize(("build", "rate"), [("cnn", 2e-3), ("vit", 1e-3)])
def test_models_have_the_shapes_of_the_task_and_export(
    models: ModuleType, digits: ModuleType, build: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "train", lambda *_: None)
    model, example = getattr(models, build)()
    assert not model.training
    logits = model(**example)
    assert logits.shape == (1, 10)
    program = torch.export.export(model, (), kwargs=example)
    np.testing.assert_allclose(program.module()(**example).detach(), logits.detach(), atol=1e-5)


def test_training_repeats_and_its_weights_are_kept(
    models: ModuleType, digits: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digits.splits()["training"]
    part = digits.Images(whole.pixels[:192], whole.labels[:192])
    monkeypatch.setattr(models, "splits", lambda: {"training": part})

    def small() -> torch.nn.Module:
        return models.ResidualNetwork((4, 8), blocks=1)

    def weights(model: torch.nn.Module) -> list[torch.Tensor]:
        return [value.clone() for value in model.state_dict().values()]

    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = weights(models.trained("small", small, epochs=1, rate=1e-2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    again = weights(models.trained("again", small, epochs=1, rate=1e-2))
    monkeypatch.setattr(models, "train", lambda *_: pytest.fail("trained again"))
    kept = weights(models.trained("small", small, epochs=1, rate=1e-2))
    assert all(map(torch.equal, first, again))
    assert all(map(torch.equal, first, kept))


def test_training_learns(
    models: ModuleType, digits: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digits.splits()["training"]
    few = digits.Images(whole.pixels[:64], whole.labels[:64])
    monkeypatch.setattr(models, "splits", lambda: {"training": few})
    model = models.trained("few", lambda: models.ResidualNetwork((8, 16), 1), 60, 1e-2)
    with torch.no_grad():
        logits = model(torch.from_numpy(few.pixels)).numpy()
    assert digits.classification_scores(logits, few.labels)["accuracy"] > 60
