"""The twelve architectures that imports and compressions are checked on: narrow ones, and as published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.models import transformer
from benchmarks.models.efficientnet import efficientnet_b0
from benchmarks.models.mobilenet import V3_SMALL, mobilenet_v2, mobilenet_v3
from benchmarks.models.resnet import resnet18, resnet50
from benchmarks.models.squeezenet import squeezenet
from benchmarks.models.training import as_trained
from benchmarks.models.vgg import vgg16

VOCAB = 61
"""Rows of the table of words of narrow text models."""


@dataclass(frozen=True)
class Architecture:
    """A network and what it reads.

    Attributes:
        build: the module with random weights.
        shape: of its image [N, 3, H, W], or of its token ids [N, S].
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Random inputs: an image, or token ids and a mask of ones."""
        if len(self.shape) == 4:
            return (torch.randn(self.shape),)
        return torch.randint(0, VOCAB, self.shape), torch.ones(self.shape, dtype=torch.int64)

    def make(self, seed: int = 0) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The module with weights as if it were trained, and inputs; the same for the same seed."""
        torch.manual_seed(seed)
        inputs, module = self.inputs(), self.build()
        if not any(isinstance(m, nn.BatchNorm2d | nn.LayerNorm) for m in module.modules()):
            for layer in module.modules():  # nothing else keeps activations in size
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return as_trained(module, *inputs), inputs


_BERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 136,
    "max_position_embeddings": 24,
    "initializer_range": 0.12,  # one over the root of the width: activations keep their size
}
_DISTILBERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "dim": 64,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 136,
    "max_position_embeddings": 24,
    "initializer_range": 0.12,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 24,
}
_GPT2 |= {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.12}
_VIT: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 136,
    "image_size": 20,
    "patch_size": 4,
    "initializer_range": 0.1,
}
_TEXT = (2, 21)

SMALL: Mapping[str, Architecture] = {
    "bert": Architecture(lambda: transformer.bert(**_BERT), _TEXT),
    "distilbert": Architecture(lambda: transformer.distilbert(**_DISTILBERT), _TEXT),
    "minilm": Architecture(
        lambda: transformer.minilm(**{**_BERT, "num_hidden_layers": 3, "intermediate_size": 104}),
        (1, 23),
    ),
    "gpt2": Architecture(lambda: transformer.gpt2(**_GPT2), _TEXT),
    "vit": Architecture(lambda: transformer.vit(**_VIT), (2, 3, 20, 20)),
    "mobilenet_v2": Architecture(
        lambda: mobilenet_v2(0.5, 72, ((1, 16, 1, 1), (6, 24, 2, 2), (6, 64, 2, 1))),
        (2, 3, 24, 24),
    ),
    "mobilenet_v3": Architecture(
        lambda: mobilenet_v3(1.0, 10, (*V3_SMALL[:2], *V3_SMALL[3:5]), 72), (2, 3, 33, 33)
    ),
    "efficientnet_b0": Architecture(
        lambda: efficientnet_b0(1.0, 10, ((1, 3, 1, 16, 1), (6, 3, 2, 24, 1), (6, 5, 2, 200, 2))),
        (2, 3, 24, 24),
    ),
    "resnet18": Architecture(lambda: resnet18(0.25, 136), (2, 3, 40, 40)),
    "resnet50": Architecture(lambda: resnet50(0.25, 72, (1, 2, 1)), (2, 3, 40, 40)),
    "vgg16": Architecture(lambda: vgg16(0.125, 10, grid=2), (2, 3, 64, 64)),
    "squeezenet": Architecture(lambda: squeezenet(1.0, 10), (2, 3, 64, 64)),
}
"""Of few layers and channels, yet each as wide as its families of compression need."""

_BASE = {"num_hidden_layers": 2}

PUBLISHED: Mapping[str, Architecture] = {
    "bert": Architecture(lambda: transformer.bert(**_BASE, vocab_size=VOCAB), (1, 128)),
    "distilbert": Architecture(
        lambda: transformer.distilbert(n_layers=2, vocab_size=VOCAB), (1, 128)
    ),
    "minilm": Architecture(
        lambda: transformer.minilm(**_BASE, vocab_size=VOCAB, num_attention_heads=12), (1, 128)
    ),
    "gpt2": Architecture(
        lambda: transformer.gpt2(n_layer=2, vocab_size=VOCAB, bos_token_id=0, eos_token_id=0),
        (1, 128),
    ),
    "vit": Architecture(lambda: transformer.vit(**_BASE), (1, 3, 224, 224)),
    "mobilenet_v2": Architecture(mobilenet_v2, (1, 3, 224, 224)),
    "mobilenet_v3": Architecture(mobilenet_v3, (1, 3, 224, 224)),
    "efficientnet_b0": Architecture(efficientnet_b0, (1, 3, 224, 224)),
    "resnet18": Architecture(resnet18, (1, 3, 224, 224)),
    "resnet50": Architecture(resnet50, (1, 3, 224, 224)),
    "vgg16": Architecture(vgg16, (1, 3, 224, 224)),
    "squeezenet": Architecture(squeezenet, (1, 3, 224, 224)),
}
"""As published and with one input, but for words and layers of encoders: two of them say it all."""
