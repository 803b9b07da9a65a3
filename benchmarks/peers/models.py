"""The models of the comparison, and the real texts they are calibrated and checked with.

Imported inside the environments that have PyTorch, never by the benchmark's own process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertModel

from examples import minilm_retrieval as minilm

Batch = Mapping[str, NDArray[np.int64]]
SEQUENCE = minilm.SEQUENCE


@dataclass(frozen=True)
class Subject:
    """A model under comparison.

    Attributes:
        build: the module, which takes ``input_ids`` and ``attention_mask`` int64 [1, 128].
        calibration: inputs [N, 128] for static quantisation.
        check: other inputs [N, 128], on which outputs are compared.
    """

    build: Callable[[], torch.nn.Module]
    calibration: Callable[[], Batch]
    check: Callable[[], Batch]


def minilm_encoder() -> torch.nn.Module:
    """all-MiniLM-L6-v2 with its pretrained weights."""
    return minilm.model()[0]


def bert_base_encoder() -> torch.nn.Module:
    """BERT-base's architecture with random weights: good for latency and for nothing else."""
    torch.manual_seed(0)
    config = BertConfig(attn_implementation="eager")
    return minilm.Encoder(BertModel(config, add_pooling_layer=False)).eval()


def bert_base() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The same as an entry for ``codesign compile benchmarks/peers/models.py:bert_base``."""
    example = {name: torch.from_numpy(value) for name, value in _random_ids(1, 0).items()}
    return bert_base_encoder(), example


def as_float_mask(encoder: torch.nn.Module) -> torch.nn.Module:
    """The encoder with an additive float mask [1, 1, 128, 128], for runtimes that need one."""
    return _FloatMask(encoder).eval()


class _FloatMask(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.bert = encoder.bert

    def forward(self, input_ids: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=input_ids, attention_mask=bias).last_hidden_state


def example(with_float_mask: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs to trace with."""
    ids = torch.ones(1, SEQUENCE, dtype=torch.int64)
    return (ids, torch.zeros(1, 1, SEQUENCE, SEQUENCE)) if with_float_mask else (ids, ids.clone())


def _texts(part: str, pairs: int) -> Batch:
    texts = [text for pair in minilm.splits()[part][:pairs] for text in pair]
    return _stack(minilm.encode(text) for text in texts)


def _random_ids(count: int, seed: int) -> Batch:
    ids = np.random.default_rng(seed).integers(1000, 30000, (count, SEQUENCE))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _stack(rows: Iterable[minilm.Arrays]) -> Batch:
    first, *rest = [{name: np.asarray(a, np.int64) for name, a in row.items()} for row in rows]
    return {name: np.concatenate([a, *(row[name] for row in rest)]) for name, a in first.items()}


SUBJECTS = {
    "minilm": Subject(
        minilm_encoder, lambda: _stack(minilm.calibration()), lambda: _texts("search", 32)
    ),
    "bert-base": Subject(bert_base_encoder, lambda: _random_ids(16, 1), lambda: _random_ids(4, 2)),
}
