"""A whole sweep that merges tokens: a tiny encoder whose inputs repeat themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from codesign.bundle import open_bundle
from codesign.candidate import Choice
from codesign.frontier import Point
from codesign.loop.outcome import SweepResult
from codesign.runtime import Predictor

pytestmark = pytest.mark.alone

SEQ, WIDTH = 32, 64


def inputs(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    """Sequences of 32 tokens of which there are only 12 different ones."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        tokens = rng.standard_normal((12, WIDTH)).astype(np.float32)
        found.append({"src": tokens[rng.integers(0, 12, (1, SEQ))]})
    return found


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 128, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


@pytest.fixture(scope="module")
def swept(
    encoder: nn.Module,
    sweep_encoder: Callable[..., SweepResult],
    tmp_path_factory: pytest.TempPathFactory,
) -> SweepResult:
    folder = tmp_path_factory.mktemp("tokens") / "run"
    return sweep_encoder(encoder, inputs(2, 4), inputs(1, 4), ("tokens",), folder)


def merges(point: Point) -> list[Choice]:
    return [c for c in point.choices if c.pass_name == "tokens"]


def test_a_point_merges_tokens(swept: SweepResult) -> None:
    shorter = [p for p in swept.frontier.points if merges(p)]
    assert shorter
    for point in shorter:
        assert {c.setting["keep"] for c in merges(point)} == {16}
        assert all(c.site in ("layer0", "layer1") for c in merges(point))


def test_what_repeats_itself_is_merged_without_loss(swept: SweepResult) -> None:
    only = [p for p in swept.frontier.points if merges(p) and len(merges(p)) == len(p.choices)]
    assert only
    assert max(p.quality["agreement"] for p in only) > 0.999


def test_its_bundle_runs(swept: SweepResult) -> None:
    point = next(p for p in swept.frontier.points if merges(p))
    (sample,) = inputs(3, 1)
    with Predictor(open_bundle(swept.folder / point.bundle)) as predictor:
        (out,) = predictor.run(sample).values()
    assert out.shape == (1, SEQ, WIDTH)
    same = [np.nonzero((sample["src"][0] == t).all(axis=1))[0] for t in sample["src"][0]]
    for rows in same:  # tokens that went in alike come out alike
        np.testing.assert_allclose(out[0, rows], out[0, rows[:1]].repeat(len(rows), 0), atol=0.2)


def test_the_tables_are_in_the_report(swept: SweepResult) -> None:
    page = (swept.folder / "report.html").read_text()
    assert "layer0.tokens" in page
    assert "tokens 16" in page
