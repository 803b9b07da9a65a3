"""A whole sweep that prunes channels through a residual sum and a depthwise convolution."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from codesign.api import sweep_model
from codesign.bundle import Bundle, open_bundle
from codesign.frontier import Point
from codesign.history import run_counts
from codesign.loop.outcome import SweepResult
from codesign.progress import Silent
from codesign.runtime import Predictor
from targets.target import find

pytestmark = [pytest.mark.slow, pytest.mark.alone]

BLOCK = find("host").block
SHAPE = (1, 3, 8, 8)


class Network(nn.Module):
    """A depthwise block with a residual sum around it: the channels of the stem are its trunk."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.stem(x))
        h = torch.relu(h + self.mix(torch.relu(self.depthwise(h))))
        return self.head(h.mean(dim=(2, 3)))


def inputs(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(SHAPE).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], SweepResult]:
    torch.manual_seed(0)
    net = Network(4 * BLOCK).eval()
    samples = inputs(2, 4)
    with torch.no_grad():
        wanted = [net(torch.from_numpy(s["x"])).numpy() for s in samples]

    def quality(predict: Any) -> dict[str, float]:
        pairs = zip(samples, wanted, strict=True)
        found = [(next(iter(predict(s).values())), right) for s, right in pairs]
        errors = [np.square(y - right).sum() / np.square(right).sum() for y, right in found]
        return {"agreement": 1 - float(np.mean(errors))}

    folder = tmp_path_factory.mktemp("channels")

    def run() -> SweepResult:
        return sweep_model(
            (net, {"x": torch.zeros(SHAPE)}),
            quality=quality,
            calibration=inputs(1, 4),
            output=folder / "run",
            metric="agreement",
            trials=1,
            measurements=2,
            passes=("channels",),
            progress=Silent(),
        )

    return run


@pytest.fixture(scope="module")
def swept(sweep: Callable[[], SweepResult]) -> SweepResult:
    return sweep()


@pytest.fixture(scope="module")
def pruned(swept: SweepResult) -> list[tuple[Point, Bundle]]:
    points = [p for p in (*swept.frontier.points, *swept.data.others) if p.choices]
    return [(p, open_bundle(swept.folder / p.bundle)) for p in points]


def test_candidates_with_fewer_channels_are_built(
    swept: SweepResult, pruned: list[tuple[Point, Bundle]]
) -> None:
    assert pruned
    for point, bundle in pruned:
        (choice,) = point.choices
        assert (choice.site, choice.pass_name) == ("model", "channels")
        share = choice.setting["share"]
        assert swept.data.labels[point.name] == f"channels {share:g}"
        assert all(width % BLOCK == 0 for width in choice.setting["widths"].values())
        (told,) = bundle.manifest["choices"]
        assert told["setting"] == json.loads(json.dumps(choice.setting, default=dict))


def test_their_bundles_lose_what_was_told(
    swept: SweepResult, pruned: list[tuple[Point, Bundle]]
) -> None:
    dense = next(p for p in (*swept.frontier.points, *swept.data.others) if not p.choices)

    def outputs(bundle: Bundle) -> np.ndarray:
        with Predictor(bundle) as predictor:
            return np.stack([next(iter(predictor.run(s).values())) for s in inputs(1, 4)])

    wanted = outputs(open_bundle(swept.folder / dense.bundle)).astype(np.float64)
    for _, bundle in pruned:
        error = np.square(outputs(bundle) - wanted).sum() / np.square(wanted).sum()
        assert error == pytest.approx(bundle.manifest["extra"]["output_error"], rel=1e-2)
        assert bundle.size_bytes < open_bundle(swept.folder / dense.bundle).size_bytes


def test_the_report_tells_of_them(swept: SweepResult) -> None:
    page = (swept.folder / "report.html").read_text()
    assert "channels 0." in page
    refused = {(r.site, r.pass_name) for r in swept.data.refusals}
    assert ("head.weight.channels", "channels") in refused  # the outputs show them


@pytest.mark.usefixtures("swept")
def test_the_same_call_again_makes_nothing(sweep: Callable[[], SweepResult]) -> None:
    again = sweep()
    counts = run_counts(again.folder)
    assert counts["last_session"]["made"] == {}
    assert counts["again"] == {}
    stored = Path(again.folder).parent / "channels"
    assert list(stored.glob("*.npz"))
