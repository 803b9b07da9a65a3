"""Medians with their intervals, and the error of an output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def median(values: Sequence[float]) -> float:
    """The median; NaN for no values."""
    return float(np.median(values)) if values else math.nan


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The interval that holds the median with the given confidence, whatever the distribution.

    By the order statistics: of n values, the k-th smallest and the k-th largest enclose the median
    with probability 1 - 2 P(Binomial(n, 1/2) < k). With too few values it is the whole range.
    """
    ordered = sorted(values)
    count = len(ordered)
    if not ordered:
        return math.nan, math.nan
    tail = 2.0**-count
    below, k = tail, 1
    while k < count // 2:
        tail *= (count - k + 1) / k
        if 2 * (below + tail) > 1 - confidence:
            break
        below += tail
        k += 1
    return ordered[k - 1], ordered[count - k]


def output_error(
    got: NDArray[np.floating], expected: NDArray[np.floating], mask: NDArray[np.generic]
) -> dict[str, float]:
    """How far hidden states are from the expected ones; padding is left out.

    Args:
        got, expected: [N, S, C].
        mask: [N, S], 1 for real tokens.

    Returns:
        ``max_abs``; ``relative``, the same by the largest expected magnitude; ``rms``, the root
        mean square error by the root mean square of what was expected; ``lowest_cosine`` of the N
        sentence embeddings (mean over real tokens).
    """
    real = mask.astype(bool)
    a, b = got.astype(np.float64), expected.astype(np.float64)
    difference, wanted = (a - b)[real], b[real]
    weights = mask.astype(np.float64)[:, :, None]
    u, v = (a * weights).sum(axis=1), (b * weights).sum(axis=1)
    norms = np.maximum(np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1), 1e-300)
    return {
        "max_abs": float(np.abs(difference).max()),
        "relative": float(np.abs(difference).max() / np.abs(wanted).max()),
        "rms": float(np.sqrt((difference**2).mean() / (wanted**2).mean())),
        "lowest_cosine": float(((u * v).sum(axis=1) / norms).min()),
    }
