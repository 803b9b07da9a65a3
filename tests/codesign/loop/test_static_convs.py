"""A network of convolutions in static int8 or in half precision: what is built computes what was simulated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

from codesign.candidate import Candidate, Choice
from codesign.loop.formats import formats_for
from codesign.loop.layer_solver import LayerSolver
from codesign.loop.rewrite import rewrite_candidate
from codesign.loop.solver import solve_candidate
from codesign.pipeline import compile_model
from codesign.prepare import Prepared, prepare
from codesign.simulate import Simulator
from passes import bf16, fp16
from passes.int8_static import Int8Static, choices
from targets.target import Target, find

TARGET = find("host")


class Residual(nn.Module):
    """relu(x + two convolutions of x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.b(torch.relu(self.a(x))))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        Residual(32),
        nn.Conv2d(32, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 64, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 33),
    )
    return prepare((net.eval(), (torch.randn(2, 3, 10, 9),)))


@pytest.fixture(scope="module")
def samples(prepared: Prepared) -> list[dict[str, np.ndarray]]:
    rng, (spec,) = np.random.default_rng(5), prepared.model.inputs
    return [{spec.name: rng.standard_normal(spec.shape).astype(np.float32)} for _ in range(12)]


def built(prepared: Prepared, candidate: Candidate, simulator: Simulator, target: Target):
    solver = LayerSolver(prepared.model, simulator)
    solved = solve_candidate(prepared.sites, simulator, solver, candidate, target)
    model = rewrite_candidate(prepared.model, solved.blocks, solved.dropped, target)
    return solved, *compile_model(model, target)


def outputs(lowered, executable, samples) -> np.ndarray:
    machine = relax.VirtualMachine(executable, tvm.cpu())
    weights = [tvm.runtime.tensor(w) for w in lowered.weights.values()]
    found = []
    for sample in samples:
        inputs = [tvm.runtime.tensor(v) for v in sample.values()]
        found.append(machine["main"](*inputs, *weights)[0].numpy())
    return np.concatenate(found).astype(np.float64)


def test_patterns_of_codes_are_offered_where_both_passes_are_enabled(prepared):
    target = find("icelake-server")
    site = next(s for s in prepared.sites.linears if s.window is not None and s.in_features == 288)
    both, _ = formats_for(site, target, ("pattern", "int8_static"))
    shown = [f.kernel for f in both if isinstance(f, Int8Static)]
    assert shown == [(), (3, 3)]
    for enabled in (("int8_static",), ("pattern", "int8")):
        found, _ = formats_for(site, target, enabled)
        assert not [f for f in found if isinstance(f, Int8Static) and f.kernel]


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_the_error_told_is_that_of_the_built_network(prepared, samples, density):
    simulator = Simulator(prepared.model, prepared.sites, TARGET, samples)
    picked = []
    for site in prepared.sites.linears:
        offers = choices(site, TARGET)[0]
        picked += [
            Choice(site.name, "int8_static", f.setting) for f in offers if f.density == density
        ]
    assert len(picked) >= (5 if density == 1 else 4)  # the first convolution has 27 inputs only
    solved, lowered, executable = built(prepared, Candidate(tuple(picked)), simulator, TARGET)
    dense = outputs(*compile_model(prepared.model, TARGET), samples)
    got = outputs(lowered, executable, samples)
    error = np.square(got - dense).sum() / np.square(dense).sum()
    assert error == pytest.approx(solved.output_error, rel=0.05)
    assert 0 < error < (1e-3 if density == 1 else 0.1)
    quantised = [v for b in lowered.main.body.blocks for v in b.bindings if "conv" in str(v.value)]
    assert len([v for v in quantised if "int8_static" in str(v.value)]) >= 3


@pytest.mark.parametrize("kind", [bf16, fp16], ids=["bf16", "fp16"])
def test_half_precision_of_the_built_network(prepared, samples, kind):
    """All layers but the first, of 27 inputs; its outputs are off by as much as was told, or its sums."""
    simulator = Simulator(prepared.model, prepared.sites, TARGET, samples)
    target = find("sapphirerapids")
    picked = [
        Choice(site.name, kind.NAME)
        for site in prepared.sites.linears
        if kind.choices(site, target)[0]
    ]
    assert len(picked) == 5
    solved, lowered, executable = built(prepared, Candidate(tuple(picked)), simulator, TARGET)
    dense = outputs(*compile_model(prepared.model, TARGET), samples)
    got = outputs(lowered, executable, samples)
    error = np.square(got - dense).sum() / np.square(dense).sum()
    if kind is bf16:
        assert error == pytest.approx(solved.output_error, rel=0.05)
    assert 0.9 * solved.output_error <= error < 3e-5
    convolutions = str(lowered.mod.script()).count(f"call_tir(cls.fused_conv_{kind.NAME}")
    assert convolutions >= 3
