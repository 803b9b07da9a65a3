"""Rounding of weights to codes whose scales and zero points belong to groups of inputs.

A scale of its own for every few inputs of every output lets 4 bits say what 8 bits say with a scale a
row. Range and zero point of a group are those of the least squared error, inputs weighted by their
energy (as AWQ's clipping, Lin et al. 2024): a search over ranges, then least squares for the scale
with the codes as they are. They stay as they are while GPTQ (Frantar et al. 2023) picks the codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from passes.errors import PassError
from passes.solve.blas import one_thread
from passes.solve.feedback import DAMPING, fed_back, feedback_of
from passes.solve.gram import Array, check_finite, damped, squared_error
from targets.kernels.linear_weight_only import Codes

RANGES = np.linspace(1.0, 0.5, 11)
"""Shares of a group's range that are tried."""

FITS = 2
"""Rounds of least squares for the scale, each followed by new codes."""


class Grid(NamedTuple):
    """The grid of a weight: ``w = (code - zero) * scale`` by group.

    Attributes:
        scale: float32 [N, groups], positive.
        zero: float32 [N, groups], whole numbers within the codes.
    """

    scale: NDArray[np.float32]
    zero: NDArray[np.float32]


@one_thread
def quantize_groups(
    W: Array, xx: Array, codes: Codes, *, damping: float = DAMPING
) -> tuple[NDArray[np.float32], Grid]:
    """Round a weight to codes by group.

    Args:
        W: [N, K].
        xx: [K, K] Gram matrix of the inputs.
        codes: bits, inputs of a group, symmetric or not.
        damping: ridge relative to the mean diagonal of xx.

    Returns:
        The effective weight, float32 [N, K], and its grid. ``|X (W - W')|^2`` is for every row at most
        that of rounding to nearest on the same grid.

    Raises:
        PassError: NaN or infinity, or shapes that do not fit.
    """
    k = W.shape[1]
    check_finite("weight", W)
    if xx.shape != (k, k):
        raise PassError(
            "the Gram matrix does not fit the weight", got=str(xx.shape), allowed=f"({k}, {k})"
        )
    weight, h = np.asarray(W, dtype=np.float64), damped(xx, damping)
    grid = _grid(weight, np.diag(h), codes)
    scale = np.ascontiguousarray(grid.scale.T, dtype=np.float64)
    zero = np.ascontiguousarray(grid.zero.T, dtype=np.float64)

    def rounded(i: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        s, z = scale[i // codes.group], zero[i // codes.group]
        code = np.maximum(np.minimum(np.rint(values / s + z), codes.highest), codes.lowest)
        return (code - z) * s

    nearest = np.stack([rounded(i, weight[:, i]) for i in range(k)], axis=1)
    feedback = fed_back(weight, rounded, feedback_of(h))
    errors = [squared_error(made - weight, xx) for made in (nearest, feedback)]
    best = np.where((errors[1] < errors[0])[:, None], feedback, nearest)
    return best.astype(np.float32), grid


def group_codes(weight: Array, grid: Grid, codes: Codes) -> NDArray[np.int16]:
    """The codes [N, K] of an effective weight that lies on its grid.

    Raises PassError if it does not.
    """
    k = weight.shape[1]
    scale, zero = (np.repeat(a, codes.group, axis=1)[:, :k].astype(np.float64) for a in grid)
    code = np.rint(weight / scale + zero)
    off = np.abs((code - zero) * scale - weight)
    within = codes.lowest <= code.min(initial=0) <= code.max(initial=0) <= codes.highest
    if not within or (off > 1e-5 * np.abs(weight) + 1e-6 * scale).any():
        raise PassError(
            f"the weight is not on its int{codes.bits} grid",
            got=f"codes {code.min():g} to {code.max():g}, off by {off.max():g}",
            allowed=f"codes {codes.lowest} to {codes.highest} by group of {codes.group} inputs",
            next="quantise the weight with passes.solve before the rewrite",
        )
    return code.astype(np.int16)


def _grid(weight: Array, importance: Array, codes: Codes) -> Grid:
    """Scales and zero points of all groups."""
    n, k = weight.shape
    groups = codes.groups(k)
    pad = groups * codes.group - k
    # rows of unit size, so that no square leaves the range of float32
    size = np.abs(weight).max(axis=1, keepdims=True, initial=0)
    unit = np.divide(weight, size, where=size > 0, out=np.zeros_like(weight))
    values = np.pad(unit, ((0, 0), (0, pad))).astype(np.float32).reshape(n, groups, -1)
    importance = importance / importance.max()
    share = np.pad(importance, (0, pad)).astype(np.float32).reshape(groups, -1)
    best = np.full((n, groups), np.inf, np.float32)
    scale, zero = np.ones_like(best), np.full_like(best, codes.middle)
    for part in RANGES:
        step, point = _range(values, np.float32(part), codes)
        for _ in range(FITS + 1):
            steps = _steps(values, step, point, codes)
            error = np.einsum("ngi,gi->ng", np.square(steps * step[..., None] - values), share)
            better = error < best
            best = np.where(better, error, best)
            scale, zero = np.where(better, step, scale), np.where(better, point, zero)
            step, point = _fitted(values, steps, share, step, point, codes)
    return Grid(_positive((scale * size).astype(np.float32)), zero)


def _range(
    values: NDArray[np.float32], part: np.float32, codes: Codes
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and zero point for ``part`` of the range of each group."""
    low, high = np.minimum(values.min(axis=-1), 0) * part, np.maximum(values.max(axis=-1), 0) * part
    if codes.symmetric:
        step = _positive(np.maximum(-low, high) / np.float32(codes.highest - codes.middle))
        return step, np.full_like(step, codes.middle)
    step = _positive((high - low) / np.float32(codes.highest - codes.lowest))
    point = np.clip(np.rint(codes.lowest - low / step), codes.lowest, codes.highest)
    return step, point.astype(np.float32)


def _steps(
    values: NDArray[np.float32], step: NDArray[np.float32], point: NDArray[np.float32], codes: Codes
) -> NDArray[np.float32]:
    """Whole steps from the zero point, next to the values."""
    low, high = codes.lowest - point[..., None], codes.highest - point[..., None]
    return np.maximum(np.minimum(np.rint(values / step[..., None]), high), low)


def _fitted(
    values: NDArray[np.float32],
    steps: NDArray[np.float32],
    share: NDArray[np.float32],
    step: NDArray[np.float32],
    point: NDArray[np.float32],
    codes: Codes,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scale, and the zero point if there is one to choose, that bring given steps next to the
    values by weighted least squares: a line through them, its offset to a whole step."""
    total = np.maximum(share.sum(axis=-1), np.finfo(np.float32).tiny)
    middles = [np.zeros_like(step)] * 2
    if not codes.symmetric:
        middles = [np.einsum("ngi,gi->ng", a, share) / total for a in (values, steps)]
    v, s = (a - m[..., None] for a, m in zip((values, steps), middles, strict=True))
    norm = np.einsum("ngi,ngi,gi->ng", s, s, share)
    fitted = np.divide(np.einsum("ngi,ngi,gi->ng", v, s, share), norm, where=norm > 0, out=0 * norm)
    fitted = np.where(fitted > np.finfo(np.float32).tiny, fitted, step)
    offset = np.rint((middles[0] - fitted * middles[1]) / fitted)
    return fitted, np.clip(point - offset, codes.lowest, codes.highest)


def _positive(step: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scale, 1 where all weights of a group are zero or next to it."""
    return np.where(step > np.finfo(np.float32).tiny, step, np.float32(1)).astype(np.float32)
