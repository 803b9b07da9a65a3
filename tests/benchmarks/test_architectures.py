"""What the benchmark of architectures builds, without timing anything."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from benchmarks.architectures import CHANNELS, DENSE_FP32, MODELS, PEER, rows, smallest, variants
from benchmarks.models.resnet import resnet18
from benchmarks.models.training import as_trained
from codesign.measurement import Measurement, summarize
from codesign.prepare import Prepared, prepare
from passes.pattern import Pattern
from targets.target import Target, find


@pytest.fixture(scope="module")
def small() -> Prepared:
    image = torch.randn(1, 3, 32, 32)
    return prepare((as_trained(resnet18(0.5, 10), image), {"x": image}))


@pytest.fixture(scope="module")
def target() -> Target:
    return find("icelake-server")


def test_every_family_of_a_cnn_makes_another_graph(small: Prepared, target: Target) -> None:
    made = variants(small, target)
    assert list(made) == [
        DENSE_FP32, "int8", "int8, half sparse", "patterns, 3.6x connectivity", CHANNELS,
    ]  # fmt: skip
    graphs = {hash(str(model.main)) for model, _ in made.values()}
    assert len(graphs) == len(made)


def test_the_smallest_format_is_as_wide_as_the_tile(small: Prepared, target: Target) -> None:
    site = next(s for s in small.sites.linears if s.window is not None and s.in_features > 500)
    form = smallest(site, ("pattern",), target)
    assert isinstance(form, Pattern)
    assert form.block == target.block
    assert form.density == pytest.approx(1 / 3.6)
    assert smallest(site, (), target) is None


def test_ratios_are_against_the_dense_variant_and_the_peer() -> None:
    times = [summarize([4e-3] * 6), summarize([1e-3] * 6)]
    found = rows("m", {DENSE_FP32: "", "int8": "3 of 4"}, times, summarize([8e-3] * 6))
    assert [(r.variant, r.over_dense, r.over_onnxruntime) for r in found] == [
        (PEER, 0.5, 1.0), (DENSE_FP32, 1.0, 2.0), ("int8", 4.0, 8.0),
    ]  # fmt: skip
    alone = rows("m", {DENSE_FP32: ""}, times[:1], None)
    assert [r.over_onnxruntime for r in alone] == [0.0]
    broken = rows("m", {DENSE_FP32: ""}, [Measurement.failed("no")], None)
    assert math.isnan(broken[0].median_ms)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_its_inputs_by_name(name: str) -> None:
    module, inputs = MODELS[name]()
    inspect.signature(module.forward).bind(**inputs)
