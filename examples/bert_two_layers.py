"""The first two layers of the pretrained MiniLM: a real BERT that is small enough for an emulated ARM device.

It embeds sentences as examples/minilm_retrieval.py does, on inputs of 64 tokens, and is scored on fewer pairs of
the same corpus: 300 that nothing else sees for the report, 200 others for the search.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from minilm_retrieval import Arrays, Predict, encode, encoder, score, splits

LAYERS, TOKENS = 2, 64
EVALUATION_PAIRS, SEARCH_PAIRS, CALIBRATION_TEXTS = 300, 200, 64


def model() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The encoder in evaluation mode, and one example of its inputs by name."""
    return encoder(LAYERS, TOKENS)


def calibration() -> Iterator[Arrays]:
    """Inputs for the solvers, of pairs that no score uses."""
    for query, passage in splits()["calibration"][:CALIBRATION_TEXTS]:
        yield encode(f"{query} {passage}", TOKENS)


def quality(predict: Predict) -> dict[str, float]:
    """MRR and recall@1 on 300 held-out pairs, for reports only."""
    return score(predict, splits()["evaluation"][:EVALUATION_PAIRS], TOKENS)


def search_quality(predict: Predict) -> dict[str, float]:
    """MRR and recall@1 on 200 other pairs."""
    return score(predict, splits()["search"][:SEARCH_PAIRS], TOKENS)


quality.concurrent = search_quality.concurrent = True  # several models may be scored at once
