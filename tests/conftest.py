"""Small encoders: one in canonical form with the same in NumPy float64, and some from PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from scipy.special import erf
from tvm import relax

from passes.model import Model, TensorSpec
from passes.sites import FFN, Attention, Layer, Linear, Sites
from targets.kernels.merge_tokens import merge_reference

if TYPE_CHECKING:  # importing these takes seconds that most tests need not spend
    import torch

    from codesign.frontend.foreign import Foreign

Array = NDArray[np.generic]
EPS = 1e-5


@dataclass
class Encoder:
    """Sizes, weights, graph and sites of the encoder."""

    model: Model
    sites: Sites
    layers: int
    heads: int

    def sample(self, seed: int) -> dict[str, Array]:
        """Random tokens, the last few of them padding."""
        rng = np.random.default_rng(seed)
        batch, seq = self.model.inputs[0].shape
        mask = np.ones((batch, seq), np.int64)
        mask[:, seq - 1 - seed % (seq // 2) :] = 0
        return {"ids": rng.integers(0, 50, (batch, seq)), "attention_mask": mask}

    def reference(
        self,
        sample: Mapping[str, Array],
        weights: Mapping[str, Array] | None = None,
        seen: Callable[[str, Array], Array] = lambda name, x: x,
        dropped: frozenset[int] = frozenset(),
        keep: Mapping[int, int] = MappingProxyType({}),
    ) -> Array:
        """The output in float64; ``seen`` may watch and replace the input of each linear layer.

        ``keep`` tells at which layers tokens are merged, and how many are left.
        """
        w = {n: v.astype(np.float64) for n, v in {**self.model.weights, **(weights or {})}.items()}

        def linear(x: Array, name: str) -> Array:
            return seen(name, x) @ w[name + ".w"].T + w[name + ".b"]

        def norm(x: Array, name: str) -> Array:
            centred = x - x.mean(-1, keepdims=True)
            unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
            return unit * w[name + ".w"] + w[name + ".b"]

        bias = (1.0 - sample["attention_mask"][:, None, None, :]) * -1e9
        h = norm(w["words"][sample["ids"]], "norm")
        place = np.tile(np.arange(h.shape[1]), (len(h), 1))
        size = np.ones(h.shape[:2])
        for i in range(self.layers):
            if i in dropped:
                continue
            if i in keep:
                each = zip(h, bias[:, 0, 0], size, strict=True)
                parts = [merge_reference(*one, keep[i]) for one in each]
                place = np.stack([p.place[old] for p, old in zip(parts, place, strict=True)])
                h, size = np.stack([p.y for p in parts]), np.stack([p.size for p in parts])
                bias = np.stack([p.bias for p in parts])[:, None, None]
            q, k, v = (self._split(t) for t in np.split(linear(h, f"{i}.qkv"), 3, axis=-1))
            scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + bias
            e = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (e / e.sum(-1, keepdims=True)) @ v
            mixed = mixed.transpose(0, 2, 1, 3).reshape(*h.shape[:2], -1)
            h = norm(linear(mixed, f"{i}.out") + h, f"{i}.norm1")
            up = linear(h, f"{i}.up")
            h = norm(linear(up * 0.5 * (1 + erf(up / np.sqrt(2))), f"{i}.down") + h, f"{i}.norm2")
        return np.take_along_axis(h, place[..., None], axis=1)

    def _split(self, t: Array) -> Array:
        return t.reshape(*t.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)


class _Builder:
    """Emits the graph; weights are made as they are met."""

    def __init__(self, batch: int, seq: int, width: int, heads: int, hidden: int) -> None:
        self.bb = relax.BlockBuilder()
        self.rng = np.random.default_rng(7)
        self.weights: dict[str, Array] = {}
        self.params: list[relax.Var] = []
        self.shape = (batch, seq, width)
        self.heads, self.hidden = heads, hidden
        self.linears: list[Linear] = []
        self.layers: list[Layer] = []

    def weight(self, name: str, *shape: int, centre: float = 0.0) -> relax.Var:
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
        self.weights[name] = (centre + scale * self.rng.standard_normal(shape)).astype(np.float32)
        self.params.append(relax.Var(name, relax.TensorType(list(shape), "float32")))
        return self.params[-1]

    def linear(self, x: relax.Var, name: str, k: int, n: int) -> relax.Var:
        w, b = self.weight(name + ".w", n, k), self.weight(name + ".b", n)
        rows = self.shape[0] * self.shape[1]
        self.linears.append(Linear(name, name + ".w", name + ".b", rows, k, n))
        y = self.bb.emit(relax.op.matmul(x, self.bb.emit(relax.op.permute_dims(w, [1, 0]))))
        return self.bb.emit(relax.op.add(y, b))

    def norm(self, x: relax.Var, name: str) -> relax.Var:
        width = self.shape[-1]
        gain, shift = self.weight(name + ".w", width, centre=1.0), self.weight(name + ".b", width)
        return self.bb.emit(relax.op.nn.layer_norm(x, gain, shift, axes=[-1], epsilon=EPS))

    def attention(self, x: relax.Var, bias: relax.Var, name: str) -> relax.Var:
        emit, (batch, seq, width) = self.bb.emit, self.shape
        parts = emit(relax.op.split(self.linear(x, name, width, 3 * width), 3, axis=-1))
        shape = (batch, seq, self.heads, width // self.heads)
        q, k, v = (emit(relax.op.reshape(emit(parts[i]), shape)) for i in range(3))
        mixed = emit(relax.op.nn.attention(q, k, v, bias, scale=shape[-1] ** -0.5))
        return emit(relax.op.reshape(mixed, self.shape))

    def layer(self, h: relax.Var, bias: relax.Var, i: int) -> relax.Var:
        emit, width, start = self.bb.emit, self.shape[-1], h.name
        mixed = self.attention(h, bias, f"{i}.qkv")
        out = self.linear(mixed, f"{i}.out", width, width)
        h = self.norm(emit(relax.op.add(out, h)), f"{i}.norm1")
        up = emit(relax.op.nn.gelu(self.linear(h, f"{i}.up", width, self.hidden)))
        down = self.linear(up, f"{i}.down", self.hidden, width)
        h = self.norm(emit(relax.op.add(down, h)), f"{i}.norm2")
        qkv, merge, first, second = self.linears[-4:]
        heads = Attention(f"{i}.attention", qkv, merge, self.heads, width // self.heads)
        ffn = FFN(f"{i}.ffn", first, second, "gelu")
        self.layers.append(Layer(f"layer{i}", heads, ffn, start, h.name))
        return h

    def build(self, layers: int) -> tuple[Model, Sites]:
        batch, seq, width = self.shape
        ids = relax.Var("ids", relax.TensorType([batch, seq], "int64"))
        mask = relax.Var("attention_mask", relax.TensorType([batch, seq], "int64"))
        op, emit = relax.op, self.bb.emit
        with self.bb.function("main", [ids, mask]):
            with self.bb.dataflow():
                wide = emit(op.astype(emit(op.reshape(mask, (batch, 1, 1, seq))), "float32"))
                off = emit(op.subtract(relax.const(1.0, "float32"), wide))
                bias = emit(op.multiply(off, relax.const(-1e9, "float32")))
                h = self.norm(emit(op.take(self.weight("words", 50, width), ids, axis=0)), "norm")
                for i in range(layers):
                    h = self.layer(h, bias, i)
                result = self.bb.emit_output(relax.Tuple([h]))
            self.bb.emit_func_output(result)
        body = self.bb.get()["main"]
        main = relax.Function([ids, mask, *self.params], body.body, body.ret_ty)
        module = tvm.IRModule({"main": main.with_attr("global_symbol", "main")})
        inputs = (
            TensorSpec("ids", (batch, seq), "int64"),
            TensorSpec("attention_mask", (batch, seq), "int64"),
        )
        outputs = (TensorSpec("hidden", self.shape, "float32"),)
        model = Model(module, self.weights, inputs, outputs, "encoder").check("the test")
        attentions = tuple(x.attention for x in self.layers)
        ffns = tuple(x.ffn for x in self.layers)
        return model, Sites(tuple(self.linears), attentions, ffns, tuple(self.layers), ())


@pytest.fixture(scope="session")
def encoder() -> Callable[..., Encoder]:
    """Makes encoders: ``encoder(layers, batch, seq, width, heads, hidden)``."""

    def make(
        layers: int = 2,
        batch: int = 1,
        seq: int = 16,
        width: int = 64,
        heads: int = 4,
        hidden: int = 96,
    ) -> Encoder:
        model, sites = _Builder(batch, seq, width, heads, hidden).build(layers)
        return Encoder(model, sites, layers, heads)

    return make


VOCAB, WIDTH, BATCH, SEQ = 61, 48, 2, 17


def _last_hidden_state(model: torch.nn.Module, argument: str) -> torch.nn.Module:
    """A module that gives only the last hidden state, under the argument names of ``model``."""
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            found = self.inner(input_ids=input_ids, attention_mask=attention_mask)
            return found.last_hidden_state

    class Image(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.inner(pixel_values).last_hidden_state

    return Text() if argument == "input_ids" else Image()


Example = tuple["torch.nn.Module", tuple["torch.Tensor", ...]]


def _trained(module: torch.nn.Module) -> torch.nn.Module:
    """Vectors that are zero or one before training made distinct, so that mixing them up shows."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def _text() -> tuple[torch.Tensor, ...]:
    import torch

    return torch.randint(0, VOCAB, (BATCH, SEQ)), torch.ones(BATCH, SEQ, dtype=torch.int64)


def _bert(attention: str) -> Example:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=80,
        max_position_embeddings=24,
        attn_implementation=attention,
    )
    return _last_hidden_state(BertModel(config, add_pooling_layer=False), "input_ids"), _text()


def _distilbert() -> Example:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(
        vocab_size=VOCAB,
        dim=WIDTH,
        n_layers=2,
        n_heads=4,
        hidden_dim=80,
        max_position_embeddings=24,
    )
    return _last_hidden_state(DistilBertModel(config), "input_ids"), _text()


def _vit() -> Example:
    import torch
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=80,
        image_size=16,
        patch_size=4,
    )
    model = _last_hidden_state(ViTModel(config, add_pooling_layer=False), "pixel_values")
    return model, (torch.randn(BATCH, 3, 16, 16),)


def _encoder(norm_first: bool, batch_first: bool = True) -> Example:
    import torch

    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, 4, 80, batch_first=batch_first, norm_first=norm_first
    )
    module = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return module, (torch.randn((BATCH, SEQ, WIDTH) if batch_first else (SEQ, BATCH, WIDTH)),)


EXAMPLES: Mapping[str, Callable[[], Example]] = {
    "bert": lambda: _bert("eager"),
    "bert sdpa": lambda: _bert("sdpa"),
    "distilbert": _distilbert,
    "vit": _vit,
    "encoder post": lambda: _encoder(norm_first=False),
    "encoder pre": lambda: _encoder(norm_first=True),
    "encoder sequence first": lambda: _encoder(norm_first=False, batch_first=False),
}


@pytest.fixture(scope="session")
def torch_example() -> Callable[[str], Example]:
    """Small encoders with random weights, by name: (module in evaluation mode, example inputs)."""

    import torch

    @functools.cache
    def make(name: str) -> Example:
        torch.manual_seed(0)
        module, inputs = EXAMPLES[name]()
        return _trained(module), inputs

    return make


@pytest.fixture(scope="session")
def onnx_example(
    torch_example: Callable[[str], Example], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The same encoders as files written by ``torch.onnx.export``."""
    import torch

    folder = tmp_path_factory.mktemp("onnx")

    @functools.cache
    def make(name: str) -> Path:
        module, inputs = torch_example(name)
        path = folder / f"{name.replace(' ', '_')}.onnx"
        torch.onnx.export(module, inputs, dynamo=True, verbose=False).save(str(path))
        return path

    return make


@pytest.fixture(scope="session")
def foreign_example(
    torch_example: Callable[[str], Example], onnx_example: Callable[[str], Path]
) -> Callable[[str], Foreign]:
    """The same encoders imported: by ``torch.export``, or from ONNX where "(onnx)" is appended."""

    from codesign.frontend.onnx_import import from_onnx_file
    from codesign.frontend.torch_export import from_module

    @functools.cache
    def make(name: str) -> Foreign:
        if name.endswith(" (onnx)"):
            return from_onnx_file(onnx_example(name.removesuffix(" (onnx)")), {})
        module, inputs = torch_example(name)
        return from_module(module, inputs, name, {})

    return make
