"""The first two layers of the pretrained MiniLM: a real BERT that is small enough for an emulated ARM device.

It embeds sentences as examples/minilm_retrieval.py does, on inputs of 64 tokens, and is scored on fewer pairs of
the same corpus: 300 that nothing else sees for the report, 200 others for the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from minilm_retrieval import Encoder, Pair, mean_pool, model_folder, retrieval_scores, splits
from numpy.typing import NDArray
from transformers import AutoTokenizer, BertModel
from transformers.utils import logging

Arrays = Mapping[str, NDArray[np.generic]]
Predict = Callable[[Arrays], Arrays]

LAYERS, TOKENS = 2, 64
EVALUATION_PAIRS, SEARCH_PAIRS, CALIBRATION_TEXTS = 300, 200, 64


def model() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The encoder in evaluation mode, and one example of its inputs by name."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # or it reports the layers that are left out on purpose
    bert = BertModel.from_pretrained(
        model_folder(),
        num_hidden_layers=LAYERS,
        add_pooling_layer=False,
        attn_implementation="eager",
        local_files_only=True,
    )
    example = {name: torch.from_numpy(value) for name, value in encode("An example text.").items()}
    return Encoder(bert).eval(), example


def calibration() -> Iterator[Arrays]:
    """Inputs for the solvers, of pairs that no score uses."""
    for query, passage in splits()["calibration"][:CALIBRATION_TEXTS]:
        yield encode(f"{query} {passage}")


def quality(predict: Predict) -> dict[str, float]:
    """MRR and recall@1 on 300 held-out pairs, for reports only."""
    return score(predict, splits()["evaluation"][:EVALUATION_PAIRS])


def search_quality(predict: Predict) -> dict[str, float]:
    """MRR and recall@1 on 200 other pairs."""
    return score(predict, splits()["search"][:SEARCH_PAIRS])


quality.concurrent = search_quality.concurrent = True  # several models may be scored at once


def score(predict: Predict, pairs: Sequence[Pair]) -> dict[str, float]:
    """Retrieval scores when every query is searched among the passages of all ``pairs``."""
    queries, passages = (_embedded(predict, texts) for texts in zip(*pairs, strict=True))
    return retrieval_scores(queries, passages)


def _embedded(predict: Predict, texts: Sequence[str]) -> NDArray[np.float32]:
    rows = []
    for text in texts:
        inputs = encode(text)
        (hidden,) = predict(inputs).values()
        rows.append(mean_pool(np.asarray(hidden, np.float32), inputs["attention_mask"])[0])
    return np.stack(rows)


@cache
def encode(text: str) -> dict[str, NDArray[np.int64]]:
    """The model's inputs for one text, padded or cut to 64 tokens; never change the arrays."""
    tokens = _tokenizer()(text, padding="max_length", truncation=True, max_length=TOKENS)
    return {n: np.array([tokens[n]], np.int64) for n in ("input_ids", "attention_mask")}


@cache
def _tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)
