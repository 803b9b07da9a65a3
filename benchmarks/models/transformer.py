"""BERT, MiniLM, DistilBERT, GPT-2 and ViT from the configurations of ``transformers``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTModel,
)


class Text(nn.Module):
    """Token ids and their mask, int64 [B, S], to one tensor of what the model gives."""

    def __init__(self, inner: nn.Module, output: str, **fixed: Any) -> None:
        super().__init__()
        self.inner, self._output, self._fixed = inner, output, fixed

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found = self.inner(input_ids=input_ids, attention_mask=attention_mask, **self._fixed)
        return getattr(found, self._output)


class Image(nn.Module):
    """An image [N, 3, H, W] to the last hidden state of its patches."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.inner(pixel_values).last_hidden_state


def bert(**sizes: Any) -> nn.Module:
    """BERT-base (Devlin et al., arXiv:1810.04805); ``sizes`` change its configuration."""
    inner = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    return Text(inner, "last_hidden_state").eval()


def minilm(**sizes: Any) -> nn.Module:
    """MiniLM-L6-H384 (Wang et al., arXiv:2002.10957): a BERT of 6 narrow layers."""
    shape = {"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536}
    return bert(**(shape | sizes))


def distilbert(**sizes: Any) -> nn.Module:
    """DistilBERT (Sanh et al., arXiv:1910.01108)."""
    return Text(DistilBertModel(DistilBertConfig(**sizes)), "last_hidden_state").eval()


def gpt2(**sizes: Any) -> nn.Module:
    """GPT-2 (Radford et al., 2019): the logits of a whole text at once, without a cache."""
    config = GPT2Config(use_cache=False, **sizes)
    return Text(GPT2LMHeadModel(config), "logits", use_cache=False).eval()


def vit(**sizes: Any) -> nn.Module:
    """ViT-B/16 (Dosovitskiy et al., arXiv:2010.11929)."""
    return Image(ViTModel(ViTConfig(**sizes), add_pooling_layer=False)).eval()
