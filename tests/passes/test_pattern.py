"""What patterns are offered, and the convolutions that are written for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from codesign.prepare import prepare
from passes.errors import PassError
from passes.format_linear import format_linears
from passes.pattern import Pattern, PatternConfig, Patterned, choices, form
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.patterns import natural_entries
from passes.solve.site import Affine, solve_linear
from passes.sparse import Sparse
from targets.kernels.window import Window
from targets.target import find

TARGET = find("x86-64-v3")  # blocks of 16
WINDOW = Window(9, 9, 32, (3, 3), padding=(1, 1, 1, 1))


def site(**other: object) -> Linear:
    return replace(Linear("block0.conv0", "w", "b", 81, 288, 64, WINDOW), **other)


def test_offers_are_shares_of_channels_by_width_of_sharing():
    offers, refusals = choices(site(), TARGET)
    assert [(f.density, f.block) for f in offers[:4]] == [(1.0, 16), (1.0, 8), (1.0, 4), (0.5, 16)]
    assert len(offers) == 9
    assert not refusals
    assert all(form(f.setting, TARGET) == f for f in offers)
    alone, _ = choices(site(), TARGET, PatternConfig(shares=(1.0,), single=True))
    assert [f.block for f in alone] == [16, 8, 4, 1]
    strided = site(window=replace(WINDOW, strides=(2, 2)))
    shared, (refusal,) = choices(strided, TARGET, PatternConfig(shares=(1.0,), single=True))
    assert [f.block for f in shared] == [16, 8, 4]
    assert "no strides" in refusal.reason
    five = Pattern(0.5, 16, (5, 5))
    assert form(five.setting, TARGET) == five


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"window": None}, "no convolution"),
        ({"window": Window(9, 9, 32, (1, 1), (2, 2))}, "a 1x1 kernel has too few entries"),
        ({"window": WINDOW.with_channels(3)}, "3 input channels are too few"),
        ({"out_features": 10}, "10 outputs do not fill one block of 16"),
    ],
)
def test_refusals_say_why(other, reason):
    offers, (refusal,) = choices(site(**other), TARGET, PatternConfig())
    assert offers == []
    assert reason in refusal.reason


def test_a_placeholder_keeps_as_much_as_the_solver():
    rng = np.random.default_rng(0)
    structure = Patterned((3, 3), 0.5, 6, 8)
    x = rng.standard_normal((200, 90))
    weight, mask = structure.prune(rng.standard_normal((20, 90)), x.T @ x)
    assert mask.shape == structure.empty(20, 90).shape
    assert set(mask.sum(axis=1)) == set(structure.empty(20, 90).sum(axis=1))
    assert mask.sum(axis=1)[0] == 5 * natural_entries((3, 3))
    assert (weight[np.repeat(~mask, 8, axis=0)[:20]] == 0).all()


class Net(torch.nn.Module):
    """Three convolutions of odd sizes, the last one 5x5 and strided."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Conv2d(5, 37, 3, padding=1)
        self.b = torch.nn.Conv2d(37, 50, 3, padding=(1, 0), stride=(1, 2), bias=False)
        self.c = torch.nn.Conv2d(50, 33, 5, padding=2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


@pytest.fixture(scope="module")
def prepared():
    torch.manual_seed(0)
    return prepare((Net().eval(), (torch.randn(2, 5, 7, 11),)))


@pytest.mark.parametrize(
    "form_of",
    [
        lambda s: Sparse(0.3, 16),
        lambda s: Sparse(0.5, 8),
        lambda s: Pattern(1.0, 16, s.window.kernel),
        lambda s: Pattern(0.4, 8, s.window.kernel),
        lambda s: Pattern(0.5, 1 if s.window.strides == (1, 1) else 16, s.window.kernel),
    ],
    ids=["sparse 16", "sparse 8", "pattern 16", "pattern and connectivity 8", "single kernels"],
)
def test_a_formatted_network_is_that_of_its_effective_weights(prepared, execute, form_of):
    rng = np.random.default_rng(1)
    model, layers, effective = prepared.model, [], Net().double().eval()
    for linear, conv in zip(
        prepared.sites.linears, (effective.a, effective.b, effective.c), strict=True
    ):
        weight = model.weights[linear.weight].reshape(linear.out_features, -1)
        bias = None if linear.bias is None else model.weights[linear.bias]
        gram = Gram(linear.in_features).add(rng.standard_normal((400, linear.in_features)))
        solved = solve_linear(Affine(weight, bias), gram, form_of(linear))
        layers.append((linear, solved))
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(solved.weight.reshape(conv.weight.shape)))
            if conv.bias is not None:
                conv.bias.copy_(torch.from_numpy(solved.bias))
    written, report = format_linears(model, layers, TARGET)
    assert len(report.rewrites) == 3
    assert not any(linear.weight in written.weights for linear in prepared.sites.linears)
    x = rng.standard_normal((2, 5, 7, 11)).astype(np.float32)
    (got,) = execute(written, {"x": x})
    wanted = effective(torch.from_numpy(x).double()).detach().numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_layer_of_other_blocks_is_refused(prepared):
    linear = prepared.sites.linears[1]
    weight = prepared.model.weights[linear.weight].reshape(linear.out_features, -1)
    gram = Gram(linear.in_features).add(np.random.default_rng(2).standard_normal((50, 333)))
    solved = solve_linear(Affine(weight), gram, Sparse(0.5, 32))
    with pytest.raises(PassError, match="another block of outputs"):
        format_linears(prepared.model, [(linear, solved)], TARGET)
