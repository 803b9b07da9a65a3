"""Fewer channels throughout a residual network with a depthwise block: what is built is what was solved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

from codesign.candidate import Candidate, Choice
from codesign.loop.bases import Base, Bases
from codesign.loop.channels import ChannelPruner, prunable
from codesign.loop.rewrite import rewrite_candidate
from codesign.loop.solver import solve_candidate
from codesign.pipeline import compile_model
from codesign.prepare import Prepared, prepare
from codesign.progress import Silent
from codesign.simulate import Variant
from passes.channels.budget import most_important
from passes.channels.importance import magnitude
from passes.channels.prune import prune_channels
from passes.errors import PassError
from passes.find_sites import find_sites
from passes.int8_static import choices
from targets.target import find

TARGET = find("host")
BLOCK = TARGET.block
SIZES = (2 * BLOCK, 3 * BLOCK, 3 * BLOCK)


class Inverted(nn.Module):
    """MobileNet's block: x + (1x1, depthwise, 1x1), each with batch norm."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.down = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.up(x)))
        y = torch.relu(self.norm2(self.depthwise(y)))
        return x + self.norm3(self.down(y))


class Network(nn.Module):
    """Stem, block, strided convolution, head: three groups of channels."""

    def __init__(self, trunk: int, inner: int, last: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, trunk, 3, padding=1)
        self.block = Inverted(trunk, inner)
        self.conv = nn.Conv2d(trunk, last, 3, stride=2, padding=1)
        self.head = nn.Linear(last, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.block(torch.relu(self.stem(x)))
        return self.head(torch.relu(self.conv(h)).mean(dim=(2, 3)))


def by_hand(base: Base) -> nn.Module:
    """A network of the widths that the base's choice tells, with its weights; norms change nothing."""
    (choice,) = base.choices
    widths = choice.setting["widths"]
    names = ("stem.weight.channels", "block.up.weight.channels", "conv.weight.channels")
    net = Network(*(widths.get(n, size) for n, size in zip(names, SIZES, strict=True))).eval()
    state = net.state_dict()
    for name in state:
        if ".norm" in name:  # its scale is in the weight before it, its shift is its bias
            state[name] = torch.full_like(state[name], float("weight" in name or "var" in name))
    for name, weight in base.model.weights.items():
        state[name] = torch.from_numpy(weight).reshape(state[name].shape)
    net.load_state_dict(state)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return net


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    torch.manual_seed(0)
    net = Network(*SIZES).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return prepare((net, (torch.randn(2, 3, 11, 9),)))


@pytest.fixture(scope="module")
def base(prepared: Prepared) -> Base:
    """The network itself, with inputs that are far from uniform."""
    rng, (spec,) = np.random.default_rng(5), prepared.model.inputs
    scale = rng.standard_normal(spec.shape)
    samples = [
        {spec.name: (scale * rng.standard_normal(spec.shape)).astype(np.float32)} for _ in range(6)
    ]
    return Base(prepared.model, prepared.sites, find("host", 2), samples)


@pytest.fixture(scope="module")
def pruner(base: Base) -> ChannelPruner:
    return ChannelPruner(base, *prunable(base.model, base.sites, TARGET), TARGET, Silent())


@pytest.fixture(scope="module")
def narrow(pruner: ChannelPruner) -> Base:
    return pruner.narrowed(0.35)


def outputs(lowered, executable, samples) -> np.ndarray:  # type: ignore[no-untyped-def]
    machine = relax.VirtualMachine(executable, tvm.cpu())
    weights = [tvm.runtime.tensor(w) for w in lowered.weights.values()]
    found = [
        machine["main"](*(tvm.runtime.tensor(v) for v in sample.values()), *weights)[0].numpy()
        for sample in samples
    ]
    return np.concatenate(found).astype(np.float64)


def error(got: np.ndarray, dense: np.ndarray) -> float:
    return float(np.square(got - dense).sum() / np.square(dense).sum())


@pytest.fixture(scope="module")
def whole(base: Base) -> np.ndarray:
    """Outputs of the network itself, built."""
    return outputs(*compile_model(base.model, TARGET), base.samples)


@pytest.fixture(scope="module")
def narrowed(narrow: Base) -> np.ndarray:
    """Outputs of the narrower one, built."""
    return outputs(*compile_model(narrow.model, TARGET), narrow.samples)


def test_groups_reach_through_residuals_and_depthwise_convolutions(pruner: ChannelPruner) -> None:
    sizes = {group.name: group.size for group in pruner.groups}
    assert tuple(sizes.values()) == SIZES
    trunk, inner, _ = pruner.groups
    assert {s.weight for s in trunk.producers} == {"stem.weight", "block.down.weight"}
    assert "block.depthwise.weight" in {s.weight for s in inner.slices}


def test_the_choice_tells_widths_that_are_whole_steps(narrow: Base) -> None:
    (choice,) = narrow.choices
    assert choice.describe() == narrow.label == "channels 0.35"
    widths = choice.setting["widths"]
    assert len(widths) >= 2
    assert all(width % BLOCK == 0 for width in widths.values())
    shapes = {name: weight.shape for name, weight in narrow.model.weights.items()}
    inner = widths.get("block.up.weight.channels", SIZES[1])
    assert shapes["block.depthwise.weight"] == (inner, 1, 3, 3)
    assert shapes["block.down.weight"][1] == inner


def test_it_computes_what_pytorch_does_with_its_widths_and_weights(
    narrow: Base, narrowed: np.ndarray
) -> None:
    net = by_hand(narrow)
    with torch.no_grad():
        wanted = np.concatenate(
            [net(torch.from_numpy(x)).numpy() for s in narrow.samples for x in s.values()]
        )
    assert np.abs(narrowed - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_its_error_is_that_of_the_built_network(
    narrow: Base, whole: np.ndarray, narrowed: np.ndarray
) -> None:
    assert error(narrowed, whole) == pytest.approx(narrow.error, rel=1e-3)
    assert 0 < narrow.error < 0.2


@pytest.mark.slow
def test_refitting_loses_less_than_cutting(
    base: Base, narrow: Base, pruner: ChannelPruner, whole: np.ndarray
) -> None:
    """The same widths by magnitude, without a solver."""
    widths = narrow.choices[0].setting["widths"]
    keep = {
        g: most_important(magnitude(base.model, g), widths[g.name])
        for g in pruner.groups
        if g.name in widths
    }
    cut = prune_channels(base.model, keep)[0]
    got = outputs(*compile_model(cut, TARGET), base.samples)
    assert error(got, whole) > 2 * narrow.error


def test_what_is_decided_from_it_has_the_error_against_the_whole_network(
    base: Base, narrow: Base, whole: np.ndarray
) -> None:
    picked = [
        Choice(site.name, "int8_static", choices(site, TARGET)[0][0].setting)
        for site in narrow.sites.linears
        if choices(site, TARGET)[0]
    ]
    assert len(picked) >= 3
    candidate = narrow.candidate(*picked)
    assert Bases([base, narrow]).of(candidate) is narrow
    solved = solve_candidate(narrow.sites, narrow.simulator, narrow.solver, candidate, TARGET)
    model = rewrite_candidate(narrow.model, solved.blocks, solved.dropped, TARGET)
    got = outputs(*compile_model(model, TARGET), base.samples)
    assert error(got, whole) == pytest.approx(solved.output_error, rel=0.05)
    assert solved.output_error > narrow.error
    plain = solve_candidate(
        narrow.sites, narrow.simulator, narrow.solver, narrow.candidate(), TARGET
    )
    assert plain.output_error == pytest.approx(narrow.error, rel=1e-3)
    assert not plain.blocks


def test_its_sensitivities_are_against_its_own_outputs(narrow: Base) -> None:
    (segment, *_) = (s for s in narrow.simulator.segments if s.is_section)
    assert narrow.simulator.sensitivity(segment.name, Variant(), None) == pytest.approx(0, abs=1e-9)


def test_the_same_share_again_is_the_same_base(base: Base, narrow: Base) -> None:
    again = ChannelPruner(base, *prunable(base.model, base.sites, TARGET), TARGET, Silent())
    twin = again.narrowed(0.35)
    assert twin.choices == narrow.choices
    for name, weight in narrow.model.weights.items():
        assert np.array_equal(weight, twin.model.weights[name])


def test_candidates_find_their_base(base: Base, narrow: Base) -> None:
    bases = Bases([base, narrow])
    assert bases.of(Candidate()) is base
    assert bases.of(Candidate((Choice("block0", "layers", {"drop": True}),))) is base
    assert bases.of(narrow.candidate()) is narrow


# what cannot be had ------------------------------------------------------------------------------


def reasons(model, target=TARGET) -> dict[str, str]:  # type: ignore[no-untyped-def]
    groups, refusals = prunable(model, find_sites(model), target)
    assert not groups
    assert {r.op for r in refusals} == {"channels"}
    return {r.site: r.reason for r in refusals}


def test_encoders_are_refused(encoder) -> None:  # type: ignore[no-untyped-def]
    model = encoder(layers=1, seq=8, width=64, heads=4, hidden=96).model
    assert "trunk of an encoder" in reasons(model)["model"]


def imported(*layers: nn.Module, channels: int = 3):  # type: ignore[no-untyped-def]
    return prepare((nn.Sequential(*layers).eval(), (torch.zeros(1, channels, 8, 8),))).model


def test_groups_between_neighbours_are_left_to_ffn() -> None:
    wide = 3 * BLOCK
    model = imported(nn.Conv2d(3, wide, 3), nn.ReLU(), nn.Conv2d(wide, 5, 3))
    assert "which `ffn` decides on" in reasons(model)["model"]


def test_too_few_channels_are_refused_with_the_step() -> None:
    model = imported(
        nn.Conv2d(3, BLOCK // 2, 3), nn.MaxPool2d(2), nn.Conv2d(BLOCK // 2, 5, 3), nn.ReLU()
    )
    found = reasons(model)
    assert f"not more than the step of {BLOCK}" in found["0.weight.channels"]
    assert "model" in found


def test_a_share_that_cannot_be_had_is_an_error(pruner: ChannelPruner) -> None:
    with pytest.raises(PassError, match="cannot make the model that small"):
        pruner.narrowed(0.01)
