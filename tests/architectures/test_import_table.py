"""The import table: twelve architectures, from torch.export and from ONNX, to one canonical form."""

from __future__ import annotations

import functools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from benchmarks.models.zoo import SMALL
from codesign.frontend.parity import compare
from codesign.frontend.samples import draw
from passes.combine_qkv import combine_qkv
from passes.find_sites import find_sites
from passes.model import Model
from passes.normalize import normalize
from passes.sites import FFN, Attention, Linear, Part, Sites

if TYPE_CHECKING:  # importing these takes seconds
    import torch

    from codesign.frontend.foreign import Foreign


@dataclass(frozen=True)
class Expected:
    """How an architecture comes from ONNX, and what its canonical form must hold.

    Attributes:
        dynamo: which of PyTorch's two ONNX exporters to use: their files are spelled differently.
        operators: some of the operators that must be there, and how often.
    """

    dynamo: bool
    operators: Mapping[str, int]


TABLE = {
    # a first layer, five blocks of which one does not widen, a last layer, a classifier
    "mobilenet_v2": Expected(False, {"nn.conv2d": 6, "matmul": 11, "clip": 11, "mean": 1}),
    # four blocks, three of them with squeeze-excitation and two with h-swish
    "mobilenet_v3": Expected(False, {"nn.conv2d": 5, "matmul": 16, "mean": 4}),
    "efficientnet_b0": Expected(False, {"nn.conv2d": 5, "mean": 5, "nn.silu": 13}),
    "resnet18": Expected(True, {"nn.conv2d": 20, "nn.max_pool2d": 1, "mean": 1}),
    "resnet50": Expected(False, {"nn.conv2d": 7, "matmul": 10, "add": 21}),
    "vgg16": Expected(False, {"nn.conv2d": 13, "matmul": 3, "nn.max_pool2d": 5}),
    "squeezenet": Expected(True, {"nn.conv2d": 9, "matmul": 17, "concat": 8}),
    "bert": Expected(True, {"matmul": 12, "nn.attention_bias": 2}),
    "minilm": Expected(True, {"matmul": 18, "nn.attention_bias": 3}),
    "distilbert": Expected(True, {"matmul": 12, "nn.gelu": 2}),
    "gpt2": Expected(True, {"matmul": 9, "nn.attention_bias": 2, "nn.gelu_tanh": 2}),
    "vit": Expected(True, {"matmul": 13, "nn.attention": 2}),
}


OLDER = ("bert", "minilm", "distilbert", "gpt2", "vit")
"""What the older exporter spells differently: shapes and masks computed step by step, softmax guarded."""

CASES = [
    *((name, entry.dynamo) for name, entry in TABLE.items()),
    *((name, False) for name in OLDER),
]


@dataclass(frozen=True)
class Imported:
    """One architecture from both sides."""

    torch: Foreign
    onnx: Foreign

    @functools.cached_property
    def canonical(self) -> tuple[Model, Model]:
        return normalize(self.torch.model), normalize(self.onnx.model)


def as_onnx(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, dynamo: bool
) -> Foreign:
    """A module that went through a file."""
    import torch

    from codesign.frontend.onnx_import import from_onnx_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, str(path), dynamo=dynamo, verbose=False)
    return from_onnx_file(path, {})


@pytest.fixture(scope="module")
def imported(
    small: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, bool], Imported]:
    folder = tmp_path_factory.mktemp("architectures")

    @functools.cache
    def make(name: str, dynamo: bool) -> Imported:
        made, path = small(name), folder / f"{name}_{dynamo}.onnx"
        return Imported(made.foreign, as_onnx(made.module, made.inputs, path, dynamo))

    return make


def operators(model: Model) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(re.findall(r"= R\.([\w.]+)\(", model.mod.script()))


def run_together(models: tuple[Model, ...], feeds: list[list[NDArray]]) -> list[list[NDArray]]:
    """The outputs of models of one architecture, whose kernels are compiled once for all."""
    functions = {
        tvm.ir.GlobalVar(f"f{i}"): m.main.with_attr("global_symbol", f"f{i}")
        for i, m in enumerate(models)
    }
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    machine = relax.VirtualMachine(relax.build(tvm.IRModule(functions), target=target), tvm.cpu())
    results = []
    for i, (model, inputs) in enumerate(zip(models, feeds, strict=True)):
        values = [*inputs, *model.weights.values()]
        outputs = machine[f"f{i}"](*(tvm.runtime.tensor(v) for v in values))
        results.append([t.numpy() for t in outputs])
    return results


def check_parity(both: Imported) -> None:
    """Both canonical forms against PyTorch, on one input."""
    feeds = list(draw(both.torch.model, seed=3).values())
    expected = both.torch.reference(dict(zip(_names(both.torch), feeds, strict=True)))
    for got in run_together(both.canonical, [feeds, feeds]):
        parity = compare(got, expected, 1e-4, "PyTorch")
        assert parity.holds, parity
        assert all(np.abs(e).max() > 1e-3 for e in expected), "an output without numbers"


def _names(foreign: Foreign) -> list[str]:
    return [spec.name for spec in foreign.model.inputs]


@pytest.mark.parametrize(("name", "dynamo"), CASES)
def test_both_imports_have_the_same_operators(
    imported: Callable[[str, bool], Imported], name: str, dynamo: bool
) -> None:
    from_torch, from_onnx = (operators(m) for m in imported(name, dynamo).canonical)
    assert from_torch == from_onnx
    assert {op: from_torch[op] for op in TABLE[name].operators} == TABLE[name].operators
    assert not {"nn.batch_norm", "nn.softmax", "broadcast_to", "call_tir"} & set(from_torch)


@pytest.mark.parametrize(("name", "dynamo"), [c for c in CASES if len(SMALL[c[0]].shape) == 4])
def test_an_image_is_moved_once(
    imported: Callable[[str, bool], Imported], name: str, dynamo: bool
) -> None:
    for model in imported(name, dynamo).canonical:
        weights = set(model.weights)
        moves = [
            b.value.args[0].name
            for block in model.main.body.blocks
            for b in block.bindings
            if isinstance(b.value, relax.Call) and b.value.op.name == "relax.permute_dims"
        ]
        assert len([name for name in moves if name not in weights]) == 1


@pytest.mark.parametrize(("name", "dynamo"), CASES)
def test_both_canonical_forms_compute_what_pytorch_does(
    imported: Callable[[str, bool], Imported], name: str, dynamo: bool
) -> None:
    check_parity(imported(name, dynamo))


@pytest.mark.parametrize(("name", "dynamo"), CASES)
def test_both_imports_have_the_same_sites(
    imported: Callable[[str, bool], Imported], name: str, dynamo: bool
) -> None:
    from_torch, from_onnx = (
        outline(find_sites(combine_qkv(m))) for m in imported(name, dynamo).canonical
    )
    assert from_torch == from_onnx
    assert from_torch[0], "an architecture without sections"


def outline(sites: Sites) -> tuple[list[Any], list[Any], list[Any]]:
    """What is found, without the names of weights, which exporters choose."""

    def layer(site: Linear) -> tuple[Any, ...]:
        return site.rows, site.in_features, site.out_features, site.bias is not None, site.window

    def part(site: Part) -> tuple[Any, ...]:
        if isinstance(site, Attention):
            norm = site.norm is not None
            return site.name, layer(site.qkv), layer(site.out), site.heads, site.head_dim, norm
        if isinstance(site, FFN):
            return (
                site.name,
                layer(site.up),
                layer(site.down),
                site.activation,
                site.norm is not None,
            )
        return site.name, layer(site)

    sections = [(s.name, type(s), [part(p) for p in s.parts]) for s in sites.layers]
    tables = [(table.vocab, table.dim) for table in sites.embeddings]
    return sections, [layer(site) for site in sites.linears], tables


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_sizes_given_at_import_are_those_of_shapes_computed_in_the_file(
    small: Callable[[str], Any], tmp_path: Path, name: str
) -> None:
    import torch

    from codesign.frontend.onnx_import import from_onnx_file

    module, (ids, mask) = small(name).module, small(name).inputs
    path, free = tmp_path / "free.onnx", {0: "batch", 1: "words"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (ids, mask),
            str(path),
            dynamo=False,
            input_names=["ids", "mask"],
            output_names=["y"],
            dynamic_axes={"ids": free, "mask": free, "y": free},
        )
    model = normalize(from_onnx_file(path, {"batch": 3, "words": 17}).model)
    assert operators(model) == operators(normalize(small(name).foreign.model))
    feeds = draw(model, seed=5)
    with torch.no_grad():
        wanted = module(*(torch.from_numpy(x) for x in feeds.values())).numpy()
    ((got,),) = run_together((model,), [list(feeds.values())])
    assert compare([got], [wanted], 1e-4, "PyTorch").holds


def test_two_inputs_and_two_outputs_keep_their_places(tmp_path: Path) -> None:
    import torch

    from codesign.frontend.torch_export import from_module

    class TwoOfEach(torch.nn.Module):
        """A feature map steered by a vector, and what a classifier says of it."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.steer = torch.nn.Linear(5, 8)
            self.head = torch.nn.Linear(8, 4)

        def forward(
            self, image: torch.Tensor, code: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.conv(image) * torch.sigmoid(self.steer(code))[:, :, None, None]
            return self.head(features.mean((2, 3))), features

    torch.manual_seed(1)
    inputs = (torch.randn(2, 3, 9, 11), torch.randn(2, 5))
    module = TwoOfEach().eval()
    onnx = as_onnx(module, inputs, tmp_path / "two.onnx", dynamo=True)
    both = Imported(from_module(module, inputs, "two", {}), onnx)
    assert operators(both.canonical[0]) == operators(both.canonical[1])
    for model in both.canonical:
        assert [s.shape for s in model.inputs] == [(2, 3, 9, 11), (2, 5)]
        assert [s.shape for s in model.outputs] == [(2, 4), (2, 8, 5, 6)]
    check_parity(both)
