"""The task of two small models: real handwritten digits, and scores on images held out.

scikit-learn carries 1,797 images of 8x8 pixels in 17 grey levels, written by 13 people (E. Alpaydin
and C. Kaynak, 1998; UCI Machine Learning Repository, "Optical Recognition of Handwritten Digits");
nothing is downloaded. They are enlarged to 16x16, as networks for small images expect more than 8x8.

The images are cut once, with a fixed seed and every digit in the same shares, into three parts:

- ``quality`` scores 720 images that nothing else ever sees: the figures of the final report;
- ``search_quality`` scores 300 others, and steers the search;
- 777 train the models (digits_models.py), and some of them are ``calibration`` for the solvers.

Accuracy on 720 images moves in steps of 0.14 points. Beside it stands a score that sees every change:
the likelihood of the right digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]
Predict = Callable[[Arrays], Arrays]

SIZE = 16  # pixels of a side, after enlarging
CLASSES = 10
TEST_IMAGES = 720
SEARCH_IMAGES = 300
CALIBRATION_IMAGES = 256
SEED = 1797


@dataclass(frozen=True)
class Images:
    """Pixels float32 [N, 1, 16, 16], between 0 and 1, and labels int64 [N]."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]


def calibration() -> Iterator[Arrays]:
    """Inputs for the solvers: training images, which no score uses."""
    for image in splits()["training"].pixels[:CALIBRATION_IMAGES]:
        yield {"image": image[None]}


def quality(predict: Predict) -> dict[str, float]:
    """Accuracy and likelihood in percent on 720 held-out images, for reports only."""
    return score(predict, splits()["test"])


def search_quality(predict: Predict) -> dict[str, float]:
    """The same on 300 other images, for whatever has to decide something."""
    return score(predict, splits()["search"])


quality.concurrent = search_quality.concurrent = True  # several models may be scored at once


def score(predict: Predict, images: Images) -> dict[str, float]:
    """The scores of a model that takes one image [1, 1, 16, 16] and returns logits [1, 10]."""
    rows = []
    for image in images.pixels:
        (logits,) = predict({"image": image[None]}).values()
        rows.append(np.asarray(logits, np.float64)[0])
    return classification_scores(np.stack(rows), images.labels)


def classification_scores(
    logits: NDArray[np.floating], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy and likelihood in percent, of logits [N, 10] for labels [N].

    The likelihood is the geometric mean of the probabilities of the right answers, the exponential
    of the mean log-likelihood. A tie is no right answer, so that a model whose outputs have all
    become equal has no accuracy; outputs that are not finite score NaN.
    """
    if not np.isfinite(logits).all():
        return {"accuracy": float("nan"), "likelihood": float("nan")}
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    right = (logits >= own).sum(axis=1) == 1
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalizer = np.log(np.exp(shifted).sum(axis=1)) + logits.max(axis=1)
    return {
        "accuracy": 100 * float(right.mean()),
        "likelihood": 100 * float(np.exp((own[:, 0] - normalizer).mean())),
    }


@cache
def splits() -> dict[str, Images]:
    """The three parts by name, each in a random order; no image is in two."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the digits are in scikit-learn; run: pip install scikit-learn"
        ) from error
    data = load_digits()
    pixels = enlarged(data.images.astype(np.float32) / 16)[:, None]
    labels = data.target.astype(np.int64)
    order = stratified_order(labels, np.random.default_rng(SEED))
    cuts = [TEST_IMAGES, TEST_IMAGES + SEARCH_IMAGES]
    parts = zip(("test", "search", "training"), np.split(order, cuts), strict=True)
    return {name: Images(pixels[part], labels[part]) for name, part in parts}


def stratified_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.intp]:
    """A random order of the samples in which every stretch holds every class in its share."""
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        place[own] = (np.arange(len(own)) + rng.random()) / len(own)
    return np.argsort(place, kind="stable")


def enlarged(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images [N, H, W] at twice the size [N, 2H, 2W], bilinear, edges repeated."""
    for axis in (1, 2):
        images = _twice(images, axis)
    return images


def _twice(images: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Every sample becomes two, a quarter of a pixel to either side of it."""
    size = images.shape[axis]
    before, after = np.arange(size) - 1, np.arange(size) + 1
    near = [np.take(images, i.clip(0, size - 1), axis) for i in (before, after)]
    two = np.stack([np.float32(0.75) * images + np.float32(0.25) * n for n in near], axis + 1)
    return two.reshape(*images.shape[:axis], 2 * size, *images.shape[axis + 1 :])
