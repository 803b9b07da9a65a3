"""Several inputs and several outputs, with batch above one: imported, compiled, compressed and swept."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.applicability import FAMILIES, Subject
from benchmarks.models import transformer
from benchmarks.models.compressed import Network, middle
from benchmarks.models.training import as_trained
from benchmarks.models.twin import Twin
from codesign.api import sweep_model
from codesign.bundle import open_bundle
from codesign.candidate import Candidate
from codesign.compile import compile_model
from codesign.errors import UserError
from codesign.frontend import load, load_module
from codesign.frontend.samples import draw
from codesign.progress import Silent
from codesign.runtime import Predictor, Runtime
from targets.target import host

Arrays = Mapping[str, NDArray[Any]]

BATCH, SEQ, WIDTH = 3, 13, 66


SIZES = {
    "vocab_size": 61,
    "hidden_size": WIDTH,
    "num_attention_heads": 3,
    "intermediate_size": 104,
    "max_position_embeddings": 24,
    "initializer_range": 0.14,
}


class TwoHeads(nn.Module):
    """Token ids and their mask [N, S] to tags of tokens [N, S, 5] and a score of the text [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.text = transformer.bert(**SIZES, num_hidden_layers=2)
        self.inner = self.text.inner
        self.tags = nn.Linear(WIDTH, 5)
        self.score = nn.Linear(WIDTH, 3)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.text(input_ids, attention_mask)
        return self.tags(hidden), torch.tanh(self.score(hidden[:, 0]))


class EarlyAndLate(nn.Module):
    """Ids [N, S] and a code [N, 6]: tags come from the first of three layers, and the code steers the end."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = transformer.bert(**SIZES, num_hidden_layers=3).inner
        self.early = nn.Linear(WIDTH, 4)
        self.steer = nn.Linear(6, WIDTH)
        self.head = nn.Linear(WIDTH, 7)

    def forward(
        self, input_ids: torch.Tensor, code: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first, second, third = self.inner.encoder.layer
        one = first(self.inner.embeddings(input_ids))
        two = second(one)
        last = third(two) * torch.sigmoid(self.steer(code))[:, None]
        return self.head(last[:, 0]), self.early(one), two


class TwoBranches(nn.Module):
    """A colour and a depth image, joined, to classes [N, 7] and a map [N, 5, H, W]."""

    def __init__(self) -> None:
        super().__init__()

        def conv(c: int, k: int, stride: int = 1) -> nn.Sequential:
            made = nn.Conv2d(c, k, 3, stride, 1, bias=False)
            return nn.Sequential(made, nn.BatchNorm2d(k), nn.ReLU())

        self.colour = nn.Sequential(conv(3, 24), conv(24, 24, 2))
        self.depth = conv(2, 40, 2)
        self.first, self.second = conv(64, 72), conv(72, 64)
        self.map = nn.Conv2d(64, 5, 1)
        self.head = nn.Linear(64, 7)

    def forward(
        self, colour: torch.Tensor, depth: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat([self.colour(colour), self.depth(depth)], 1)
        features = both + self.second(self.first(both))
        return self.head(features.mean((2, 3))), self.map(features)


Example = tuple[nn.Module, tuple[torch.Tensor, ...]]


def _examples() -> dict[str, Example]:
    torch.manual_seed(0)
    ids = torch.randint(0, 61, (BATCH, SEQ))
    made: dict[str, Example] = {
        "encoder": (TwoHeads(), (ids, torch.ones_like(ids))),
        "early and late": (EarlyAndLate(), (ids, torch.randn(BATCH, 6))),
        "branches": (TwoBranches(), (torch.randn(2, 3, 19, 13), torch.randn(2, 2, 19, 13))),
    }
    return {name: (as_trained(m, *inputs), inputs) for name, (m, inputs) in made.items()}


SHAPES = {
    "encoder": [(BATCH, SEQ, 5), (BATCH, 3)],
    "early and late": [(BATCH, 7), (BATCH, SEQ, 4), (BATCH, SEQ, WIDTH)],
    "branches": [(2, 7), (2, 5, 10, 7)],
}


@dataclass(frozen=True)
class Case:
    """A model, as its file or module, and imported."""

    module: nn.Module
    given: Any
    network: Network


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Case]:
    examples = _examples()
    folder = tmp_path_factory.mktemp("several")

    @functools.cache
    def imported(name: str) -> Subject:
        return Subject.of(load_module(*examples[name]).model)

    @functools.cache
    def make(name: str, source: str) -> Case:
        module, inputs = examples[name]
        if source == "torch":
            return Case(module, (module, inputs), Network(module, imported(name)))
        path = folder / f"{name.replace(' ', '_')}.onnx"
        names = list(SPECS[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, inputs, str(path), dynamo=True, verbose=False, input_names=names
            )
        subject = Subject.of(load(path).model)
        return Case(module, path, Network(module, subject, imported(name)))

    return make


SPECS = {
    "encoder": ("input_ids", "attention_mask"),
    "early and late": ("input_ids", "code"),
    "branches": ("colour", "depth"),
}

BOTH = [(name, source) for name in SPECS for source in ("torch", "onnx")]


FAST = {("encoder", "torch"), ("branches", "onnx")}


@pytest.mark.parametrize(
    ("name", "source"),
    [pytest.param(*both, marks=[] if both in FAST else pytest.mark.slow) for both in BOTH],
)
def test_a_bundle_computes_what_pytorch_does(
    case: Callable[[str, str], Case], tmp_path: Path, name: str, source: str
) -> None:
    made = case(name, source)
    model = made.network.subject.model
    assert tuple(s.name for s in model.inputs) == SPECS[name]
    assert [s.shape for s in model.outputs] == SHAPES[name]
    compiled = compile_model(made.given, trials=1, output=tmp_path / "bundle")
    feeds = draw(model, seed=11)
    found = Runtime(open_bundle(compiled.bundle.path)).run(feeds)
    wanted = Twin(made.module, {})(list(feeds.values()))
    assert list(found) == [s.name for s in model.outputs]
    for got, right in zip(found.values(), wanted, strict=True):
        assert got.shape == right.shape
        np.testing.assert_allclose(got, right, rtol=0, atol=1e-5 * np.abs(right).max())


COARSE = {"int8, dynamic", "int8, static"}

FORMS = {
    "encoder": ("neurons between two linear layers", "vector sparsity", "int8, dynamic"),
    "early and late": (
        "neurons between two linear layers",
        "vector sparsity",
        "int8, dynamic",
        "layers",
    ),
    "branches": ("channels between two convolutions", "vector sparsity", "int8, static"),
}


@pytest.mark.parametrize(
    ("name", "source", "family"), [(n, s, f) for n, s in BOTH for f in FORMS[n]]
)
def test_compressed_outputs_are_those_of_the_same_weights_in_pytorch(
    case: Callable[[str, str], Case], name: str, source: str, family: str
) -> None:
    """Everywhere in the model that the family is offered."""
    network = case(name, source).network
    (found,) = (f for f in FAMILIES if f.name == family)
    choices = []
    for place in found.places(network.subject):
        offers, refused = found.choices(place, host())
        if not offers:
            pytest.skip(refused[0].reason)
        choices.append(found.choice(place, middle(offers)))
    assert choices
    if (
        family == "layers"
    ):  # all but the last: both outputs that are read before the end come earlier
        choices.pop()
    changes = network.compressed(Candidate(tuple(choices)))
    for output in network.compare(changes):
        output.check(coarse=family in COARSE)


class WithinALayer(nn.Module):
    """An encoder layer of which the sum in the middle is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = transformer.bert(**SIZES, num_hidden_layers=1).inner

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (layer,) = self.inner.encoder.layer
        hidden = self.inner.embeddings(input_ids)
        middle = layer.attention(hidden)[0]
        return layer.output(layer.intermediate(middle), middle), middle


def test_an_output_from_within_a_layer_is_refused_with_its_reason(tmp_path: Path) -> None:
    module = as_trained(WithinALayer())
    subject = Subject.of(load_module(module, (torch.randint(0, 61, (2, 7)),)).model)
    assert len(subject.sites.layers) == 1
    with pytest.raises(UserError, match="nothing in this model") as raised:
        sweep_model(
            (module, (torch.randint(0, 61, (2, 7)),)),
            quality=lambda predict: {"agreement": 1.0},
            calibration=[draw(subject.model, 0)],
            metric="agreement",
            output=tmp_path,
            progress=Silent(),
        )
    assert "values within are outputs" in raised.value.got


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("name", ["branches", "early and late"])
def test_a_sweep_scores_all_outputs(
    case: Callable[[str, str], Case], tmp_path: Path, name: str
) -> None:
    made = case(name, "torch")
    model = made.network.subject.model
    held_out = [draw(model, seed) for seed in range(20, 23)]
    wanted = [Twin(made.module, {})(list(feeds.values())) for feeds in held_out]

    def quality(predict: Callable[[Arrays], Arrays]) -> dict[str, float]:
        lost = []
        for feeds, right in zip(held_out, wanted, strict=True):
            found = predict(feeds)
            assert [y.shape for y in found.values()] == SHAPES[name]
            for got, theirs in zip(found.values(), right, strict=True):
                lost.append(np.square(got - theirs).sum() / np.square(theirs).sum())
        return {"agreement": 1 - float(max(lost))}

    swept = sweep_model(
        made.given,
        quality=quality,
        calibration=[draw(model, seed) for seed in range(4)],
        output=tmp_path / "run",
        metric="agreement",
        trials=1,
        measurements=2,
        passes=("ffn",),
        progress=Silent(),
    )
    assert swept.data.frontier.baselines[0].quality["agreement"] == pytest.approx(1, abs=1e-6)
    assert any(p.choices for p in (*swept.frontier.points, *swept.data.others))
    for point in swept.frontier.points:
        with Predictor(open_bundle(swept.folder / point.bundle)) as predictor:
            again = quality(predictor.run)
        assert again["agreement"] == pytest.approx(point.quality["agreement"], abs=1e-6)
