"""The import table: twelve architectures, from torch.export and from ONNX, to one canonical form."""

from __future__ import annotations

import functools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.frontend.parity import compare
from codesign.frontend.samples import draw
from passes.model import Model
from passes.normalize import normalize

if TYPE_CHECKING:  # importing these takes seconds
    import torch

    from codesign.frontend.foreign import Foreign

BERT = {
    "vocab_size": 61,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 24,
}


@dataclass(frozen=True)
class Architecture:
    """How to make it small, what it reads, and what its canonical form must hold.

    Attributes:
        build: the module.
        shape: of its image, or of its token ids.
        dynamo: which of PyTorch's two ONNX exporters to use: their files are spelled differently.
        operators: some of the operators that must be there, and how often.
    """

    build: Callable[[], torch.nn.Module]
    shape: tuple[int, ...]
    dynamo: bool
    operators: Mapping[str, int]


def _mobilenet_v2() -> torch.nn.Module:
    from benchmarks.models.mobilenet import mobilenet_v2

    return mobilenet_v2(0.25, 10, ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 1)))


def _mobilenet_v3() -> torch.nn.Module:
    from benchmarks.models.mobilenet import V3_SMALL, mobilenet_v3

    return mobilenet_v3(0.25, 10, V3_SMALL[:5], 64)


def _efficientnet() -> torch.nn.Module:
    from benchmarks.models.efficientnet import B0, efficientnet_b0

    return efficientnet_b0(0.25, 10, B0[:3])


def _resnet18() -> torch.nn.Module:
    from benchmarks.models.resnet import resnet18

    return resnet18(0.125, 10)


def _resnet50() -> torch.nn.Module:
    from benchmarks.models.resnet import resnet50

    return resnet50(0.125, 10, (1, 2, 1))


def _vgg16() -> torch.nn.Module:
    from benchmarks.models.vgg import vgg16

    return vgg16(0.0625, 10, grid=2)


def _squeezenet() -> torch.nn.Module:
    from benchmarks.models.squeezenet import squeezenet

    return squeezenet(0.25, 10)


def _bert() -> torch.nn.Module:
    from benchmarks.models.transformer import bert

    return bert(**BERT)


def _minilm() -> torch.nn.Module:
    from benchmarks.models.transformer import minilm

    return minilm(**{**BERT, "num_hidden_layers": 1, "hidden_size": 24})


def _distilbert() -> torch.nn.Module:
    from benchmarks.models.transformer import distilbert

    return distilbert(
        vocab_size=61, dim=48, n_layers=2, n_heads=4, hidden_dim=80, max_position_embeddings=24
    )


def _gpt2() -> torch.nn.Module:
    from benchmarks.models.transformer import gpt2

    small = {"vocab_size": 61, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 24}
    return gpt2(**small, bos_token_id=0, eos_token_id=0)


def _vit() -> torch.nn.Module:
    from benchmarks.models.transformer import vit

    return vit(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=80,
        image_size=16,
        patch_size=4,
    )


TABLE = {
    # a first layer, five blocks of which one does not widen, a last layer, a classifier
    "mobilenet_v2": Architecture(
        _mobilenet_v2, (1, 3, 24, 24), False, {"nn.conv2d": 6, "matmul": 11, "clip": 11, "mean": 1}
    ),
    "mobilenet_v3": Architecture(
        _mobilenet_v3,
        (2, 3, 48, 48),
        False,
        # five blocks, three of them with squeeze-excitation and two with h-swish
        {"nn.conv2d": 6, "matmul": 18, "mean": 4, "nn.relu": 8, "clip": 10},
    ),
    "efficientnet_b0": Architecture(
        _efficientnet, (1, 3, 40, 40), False, {"nn.conv2d": 6, "mean": 6, "nn.silu": 16}
    ),
    "resnet18": Architecture(
        _resnet18, (2, 3, 40, 40), True, {"nn.conv2d": 20, "nn.max_pool2d": 1, "mean": 1}
    ),
    "resnet50": Architecture(
        _resnet50, (1, 3, 40, 40), False, {"nn.conv2d": 7, "matmul": 10, "add": 21}
    ),
    "vgg16": Architecture(
        _vgg16, (1, 3, 64, 64), False, {"nn.conv2d": 13, "matmul": 3, "nn.max_pool2d": 5}
    ),
    "squeezenet": Architecture(
        _squeezenet, (2, 3, 48, 48), True, {"nn.conv2d": 9, "matmul": 17, "concat": 8}
    ),
    "bert": Architecture(_bert, (2, 17), True, {"matmul": 12, "nn.attention_bias": 2}),
    "minilm": Architecture(_minilm, (1, 17), True, {"matmul": 6, "nn.attention_bias": 1}),
    "distilbert": Architecture(_distilbert, (2, 17), True, {"matmul": 12, "nn.gelu": 2}),
    "gpt2": Architecture(
        _gpt2, (2, 17), True, {"matmul": 9, "nn.attention_bias": 2, "nn.gelu_tanh": 2}
    ),
    "vit": Architecture(_vit, (2, 3, 16, 16), True, {"matmul": 13, "nn.attention": 2}),
}


@dataclass(frozen=True)
class Imported:
    """One architecture from both sides."""

    torch: Foreign
    onnx: Foreign

    @functools.cached_property
    def canonical(self) -> tuple[Model, Model]:
        return normalize(self.torch.model), normalize(self.onnx.model)


def import_both(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, dynamo: bool
) -> Imported:
    import torch

    from codesign.frontend.onnx_import import from_onnx_file
    from codesign.frontend.torch_export import from_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, str(path), dynamo=dynamo, verbose=False)
    return Imported(from_module(module, inputs, path.stem, {}), from_onnx_file(path, {}))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Imported]:
    import torch

    from benchmarks.models.training import as_trained

    folder = tmp_path_factory.mktemp("architectures")

    @functools.cache
    def make(name: str) -> Imported:
        torch.manual_seed(0)
        entry = TABLE[name]
        if len(entry.shape) == 4:
            inputs: tuple[torch.Tensor, ...] = (torch.randn(entry.shape),)
        else:
            inputs = (torch.randint(0, 61, entry.shape), torch.ones(entry.shape, dtype=torch.int64))
        module = as_trained(entry.build(), *inputs)
        return import_both(module, inputs, folder / f"{name}.onnx", entry.dynamo)

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


@pytest.mark.parametrize("name", TABLE)
def test_both_imports_have_the_same_operators(imported: Callable, name: str) -> None:
    from_torch, from_onnx = (operators(m) for m in imported(name).canonical)
    assert from_torch == from_onnx
    assert {op: from_torch[op] for op in TABLE[name].operators} == TABLE[name].operators
    assert not {"nn.batch_norm", "nn.softmax", "broadcast_to", "call_tir"} & set(from_torch)


@pytest.mark.parametrize("name", [n for n, entry in TABLE.items() if len(entry.shape) == 4])
def test_an_image_is_moved_once(imported: Callable, name: str) -> None:
    for model in imported(name).canonical:
        weights = set(model.weights)
        moves = [
            b.value.args[0].name
            for block in model.main.body.blocks
            for b in block.bindings
            if isinstance(b.value, relax.Call) and b.value.op.name == "relax.permute_dims"
        ]
        assert len([name for name in moves if name not in weights]) == 1


@pytest.mark.parametrize("name", TABLE)
def test_both_canonical_forms_compute_what_pytorch_does(imported: Callable, name: str) -> None:
    check_parity(imported(name))


def test_two_inputs_and_two_outputs_keep_their_places(tmp_path: Path) -> None:
    import torch

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
    both = import_both(TwoOfEach().eval(), inputs, tmp_path / "two.onnx", dynamo=True)
    assert operators(both.canonical[0]) == operators(both.canonical[1])
    for model in both.canonical:
        assert [s.shape for s in model.inputs] == [(2, 3, 9, 11), (2, 5)]
        assert [s.shape for s in model.outputs] == [(2, 4), (2, 8, 5, 6)]
    check_parity(both)
