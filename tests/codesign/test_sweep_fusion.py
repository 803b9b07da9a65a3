"""A whole sweep that fuses by measurement and freezes norms: what is built is what was found fastest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from codesign.bundle import open_bundle
from codesign.loop.outcome import SweepResult
from codesign.runtime import Predictor

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SEQ, WIDTH = 16, 64


def inputs(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    draw = (rng.standard_normal((1, SEQ, WIDTH)).astype(np.float32) for _ in range(count))
    return [{"src": x} for x in draw]


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 128, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()


@pytest.fixture(scope="module")
def swept(
    encoder: nn.Module,
    sweep_encoder: Callable[..., SweepResult],
    tmp_path_factory: pytest.TempPathFactory,
) -> SweepResult:
    folder = tmp_path_factory.mktemp("fusion") / "run"
    return sweep_encoder(encoder, inputs(2, 4), inputs(1, 4), ("int8", "norm", "fuse"), folder)


def test_every_point_tells_what_became_of_its_chains(swept: SweepResult) -> None:
    for point in (*swept.frontier.points,):
        rows = [f for f in swept.data.fusions if f.candidate == point.name]
        assert {row.chain.split("+")[0] for row in rows} & {"linear", "linear_int8"}
        for row in rows:
            assert 0 < row.us <= row.default_us
            assert row.changed == (row.us < row.default_us)
        assert rows[0].chain in swept.paths["html"].read_text()


def test_bundles_run_the_kernels_that_were_kept(swept: SweepResult) -> None:
    for point in swept.frontier.points:
        bundle = open_bundle(swept.folder / point.bundle)
        extra = bundle.manifest["extra"]
        made = sum(row["calls"] * len(row["kept"].split(" | ")) for row in extra["fusions"])
        assert made <= sum(extra["kernels"].values())


def test_frozen_norms_are_looked_at_and_lose_what_they_are_said_to(
    swept: SweepResult, encoder: nn.Module
) -> None:
    options = {(o.group, o.option): o for o in swept.data.options}
    frozen = [o for (_, option), o in options.items() if option == "norm"]
    slow = [r for r in swept.data.refusals if r.pass_name == "norm"]
    assert len(frozen) + len(slow) == 2
    assert all(0 < o.error < 0.5 for o in frozen)
    assert all(r.reason.startswith("measured") for r in slow)
    for point in swept.frontier.points:
        if {c.pass_name for c in point.choices} == {"norm"} and len(point.choices) == 1:
            (choice,) = point.choices
            said = options[choice.site, "norm"].error
            assert 1 - point.quality["agreement"] == pytest.approx(said, rel=0.5)


def test_the_dense_model_keeps_its_numbers(swept: SweepResult, encoder: nn.Module) -> None:
    (sample,) = inputs(3, 1)
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(sample["src"])).numpy()
    with Predictor(open_bundle(swept.folder / "bundles" / "all" / "dense")) as predictor:
        (got,) = predictor.run(sample).values()
    np.testing.assert_allclose(got, wanted, atol=2e-5)
