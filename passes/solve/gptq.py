"""Rounding of weights to int8 with error feedback: what one input's rounding spoils, others mend.

GPTQ (Frantar et al. 2023) with a scale for each row, its range clipped where that pays. Per row the
result is kept only where it beats rounding to nearest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passes.errors import PassError
from passes.solve.blas import one_thread
from passes.solve.feedback import DAMPING, Feedback, fed_back, feedback_of
from passes.solve.gram import check_finite, damped, squared_error
from passes.solve.obs import kept_inputs

Array = NDArray[np.floating]

LEVELS = 127
"""Largest magnitude of a code: symmetric int8."""

CLIPPING = np.linspace(1.0, 0.6, 9)
"""Shares of a row's largest magnitude tried as its range."""


@one_thread
def quantize_rows(
    W: Array,
    xx: Array,
    mask: NDArray[np.bool_] | None = None,
    *,
    group: int = 1,
    block: int | None = None,
    damping: float = DAMPING,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Quantise a weight to symmetric int8 with one scale per output row.

    Args:
        W: [N, K]; with a mask, zero where it is False.
        xx: [K, K] Gram matrix of the inputs.
        mask: bool [ceil(N / block), ceil(K / group)], kept input groups; None is all.
        group: inputs a group of the mask.
        block: output rows a row of the mask; None is all.
        damping: ridge relative to the mean diagonal of xx.

    Returns:
        The effective weight, float32 [N, K], whole numbers in [-127, 127] times the row's scale,
        zero where masked; and the scales, float32 [N], positive. ``|X (W - W')|^2`` is, for every
        row, at most that of rounding to nearest on the row's full range.

    Raises:
        PassError: NaN or infinity, or shapes that do not fit.
    """
    n, k = W.shape
    check_finite("weight", W)
    if xx.shape != (k, k):
        raise PassError(
            "the Gram matrix does not fit the weight", got=str(xx.shape), allowed=f"({k}, {k})"
        )
    block = n if block is None or mask is None else block  # one factorisation serves all rows
    kept = np.ones((-(-n // block), k), bool) if mask is None else kept_inputs(mask, group, k)
    weight, h = np.asarray(W, dtype=np.float64), damped(xx, damping)
    effective, scale = np.zeros((n, k), dtype=np.float32), np.empty(n, dtype=np.float32)
    for b, inputs in enumerate(kept):
        rows = slice(b * block, min(n, (b + 1) * block))
        index = np.flatnonzero(inputs)
        pick = slice(None) if len(index) == k else np.ix_(index, index)
        codes, scale[rows] = _best(np.ascontiguousarray(weight[rows, index]), xx[pick], h[pick])
        effective[rows, index] = codes * scale[rows, None]
    return effective, scale


def codes_of(weight: Array, scale: Array) -> NDArray[np.int8]:
    """The int8 codes [N, K] of an effective weight that lies on the grid of ``scale`` [N]."""
    codes = np.rint(weight.astype(np.float64) / scale[:, None].astype(np.float64))
    grid = codes * scale[:, None]
    if np.abs(codes).max(initial=0) > LEVELS or not np.allclose(grid, weight, rtol=1e-5, atol=0):
        raise PassError(
            "the weight is not on its int8 grid",
            got=f"codes up to {np.abs(codes).max():g}, off by {np.abs(grid - weight).max():g}",
            allowed=f"whole multiples of the row's scale, at most {LEVELS}",
            next="quantise the weight with passes.solve before the rewrite",
        )
    return codes.astype(np.int8)


def _best(W: Array, xx: Array, h: Array) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Codes and scales: per row the best of nearest (full or clipped range) and fed-back rounding."""
    full = _scales(np.abs(W).max(axis=1, initial=0))
    clipped = _clipped(W, full, np.diag(xx))
    feedback = feedback_of(h)
    codes, scale = _nearest(W, full), full
    error = squared_error(codes * full[:, None] - W, xx)
    for candidate, other in (
        (_nearest(W, clipped), clipped),
        (_fed_back(W, clipped, feedback), clipped),
    ):
        reached = squared_error(candidate * other[:, None] - W, xx)
        better = reached < error
        codes = np.where(better[:, None], candidate, codes)
        scale = np.where(better, other, scale)
        error = np.where(better, reached, error)
    return codes, scale


def _scales(largest: Array) -> NDArray[np.float32]:
    """Scale per row for a largest magnitude; 1 for a row of zeros."""
    scale = (largest / LEVELS).astype(np.float32)
    return np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1))


def _nearest(W: Array, scale: Array) -> NDArray[np.float64]:
    return np.clip(np.rint(W / scale[:, None]), -LEVELS, LEVELS)


def _clipped(W: Array, full: NDArray[np.float32], importance: Array) -> NDArray[np.float32]:
    """Per row the scale with the least squared error, inputs weighted by ``importance`` [K]."""
    best, scale = np.full(len(W), np.inf), full
    values, weights = W.astype(np.float32), importance.astype(np.float32)
    for share in CLIPPING:
        tried = (full * share).astype(np.float32)
        error = np.square(_nearest(values, tried) * tried[:, None] - values) @ weights
        scale = np.where(error < best, tried, scale)
        best = np.minimum(error, best)
    return scale


def _fed_back(W: Array, scale: Array, feedback: Feedback) -> NDArray[np.float64]:
    """Codes [N, K] of GPTQ for given scales."""

    def rounded(_: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        # two ufuncs: np.clip's own checks would take most of the time of these short rows
        return np.maximum(np.minimum(np.rint(values), LEVELS), -LEVELS)

    return fed_back(W / scale[:, None], rounded, feedback)
