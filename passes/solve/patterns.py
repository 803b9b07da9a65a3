"""Pattern pruning of convolutions: every kernel keeps the same few of its entries, in one of a few shapes.

The entries that matter most to the kernels of a layer form few shapes; the most frequent ones are its
*natural patterns* (PCONV, Ma et al. 2020; PatDNN, Niu et al. 2020). Each input channel of a block of
outputs gets the pattern that leaves the least error; *connectivity pruning* then removes whole
kernels by greedy OBS with updates, equally many in every block; what is left is refitted.

A convolution is a linear layer on windows here: its weight [O, C, kh, kw] flattened to [O, C*kh*kw].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from passes.errors import PassError
from passes.solve.blas import one_thread
from passes.solve.gram import DAMPING, check_finite, damped
from passes.solve.obs import Pruned, refit
from passes.solve.removal import removal_masks

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

SWEEPS = 3
"""Times that every channel may change its pattern; few still do after the second."""

FALL = 1e-9
"""Relative gain for which a channel changes its pattern: rounding alone must not."""


def natural_entries(kernel: tuple[int, int]) -> int:
    """Entries that a pattern keeps: 4 of 3x3, as in the papers, and the same share of other sizes."""
    return max(1, round(4 / 9 * kernel[0] * kernel[1]))


def natural_patterns(
    W: NDArray[np.floating],
    xx: NDArray[np.floating],
    kernel: tuple[int, int],
    count: int = 8,
    *,
    entries: int | None = None,
    block: int = 1,
) -> Mask:
    """The ``count`` most frequent patterns of a layer: bool [<= count, kh*kw], most frequent first.

    A kernel's own pattern is its centre, which is in every natural pattern of the papers, and the
    other entries of the largest weight times input norm, summed over a block.

    Args:
        W: [O, C*kh*kw] weight in the order of OIHW.
        xx: [C*kh*kw, C*kh*kw] Gram matrix of the windows.
        kernel: (kh, kw).
        count: patterns at most; papers take 6 to 12.
        entries: kept by every pattern; by default `natural_entries`.
        block: outputs that share the pattern of an input channel.

    Raises:
        PassError: shapes that do not fit, ``entries`` out of range, NaN or infinity.
    """
    taps = kernel[0] * kernel[1]
    entries = natural_entries(kernel) if entries is None else entries
    if not 1 <= entries <= taps:
        raise PassError(
            "entries of a pattern out of range", got=f"{entries}", allowed=f"1 to {taps}"
        )
    _check(W, xx, taps)
    weight = np.asarray(W, dtype=np.float64)
    scores = np.concatenate([_scores(part, xx, taps) for part in _blocks(weight, block)])
    alive = scores.any(axis=1)  # a kernel of zeros has no pattern
    scores = scores[alive] if alive.any() else scores
    scores[:, kernel[0] // 2 * kernel[1] + kernel[1] // 2] = np.inf
    best = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :entries], axis=1)
    found = Counter(map(tuple, best.tolist()))
    # of equally frequent ones the first in lexical order, not in that of the channels
    chosen = sorted(found, key=lambda pattern: (-found[pattern], pattern))[:count]
    patterns = np.zeros((len(chosen), taps), dtype=bool)
    np.put_along_axis(patterns, np.array(chosen), True, axis=1)
    return patterns


def prune_patterns(
    W: NDArray[np.floating],
    xx: NDArray[np.floating],
    patterns: Mask,
    keep: int | None = None,
    block: int | None = None,
    *,
    damping: float = DAMPING,
) -> Pruned:
    """Give every input channel of every block of outputs a pattern, or nothing, and refit the weights.

    Args:
        W: [O, C*taps] weight in the order of OIHW.
        xx: [C*taps, C*taps] Gram matrix of the windows.
        patterns: bool [P, taps], each with the same number of entries; see `natural_patterns`.
        keep: input channels kept per block (connectivity pruning), 1 to C; None is all.
        block: outputs that share patterns and channels; the last block may be shorter. None is all.
        damping: ridge on the change of the weights, relative to the mean diagonal of xx.

    Returns:
        The weight, zero where removed, and the mask [ceil(O / block), C*taps], as those of
        ``prune_inputs`` with group 1; every block keeps ``keep`` times the entries of a pattern.

    Raises:
        PassError: shapes that do not fit, ``keep`` out of range, NaN or infinity.
    """
    keeps = [W.shape[1] // patterns.shape[1] if keep is None else keep]
    return pattern_path(W, xx, patterns, keeps, block, damping=damping)[0]


@one_thread
def pattern_path(
    W: NDArray[np.floating],
    xx: NDArray[np.floating],
    patterns: Mask,
    keeps: Iterable[int],
    block: int | None = None,
    *,
    damping: float = DAMPING,
) -> list[Pruned]:
    """``prune_patterns`` for several counts of channels: the patterns are chosen once for all."""
    taps = patterns.shape[1]
    _check(W, xx, taps)
    _check_patterns(patterns)
    keeps, channels = list(keeps), W.shape[1] // taps
    wrong = [keep for keep in keeps if not 1 <= keep <= channels]
    if wrong:
        raise PassError("kept channels out of range", got=f"{wrong[0]}", allowed=f"1 to {channels}")
    block = len(W) if block is None else min(block, len(W))
    weight, h = np.asarray(W, dtype=np.float64), damped(xx, damping)
    rows = []
    for rows_of_block in _blocks(weight, block):
        part = rows_of_block.astype(np.float64, copy=False)
        start = patterns[(_scores(part, xx, taps) @ patterns.T).argmax(axis=1)]
        rows.append(_connected(part, h, _descended(part, h, patterns, start), keeps))
    masks = [np.stack(masks) for masks in zip(*rows, strict=True)]
    return [(refit(weight, h, mask, 1, block), mask) for mask in masks]


def _descended(weight: Array, h: Array, patterns: Mask, start: Mask) -> Mask:
    """The pattern of each channel [C, taps] of one block, by coordinate descent from ``start``.

    With all other channels as they are, a channel takes the pattern of the least error, all weights
    being the best for what is kept. The error never rises.
    """
    mask, wanted = start.copy(), h @ weight.T
    for _ in range(SWEEPS):
        kept = _Kept(h, wanted, mask)
        changed = [kept.improve(channel, patterns) for channel in range(len(mask))]
        mask = kept.mask
        if not any(changed):
            break
    return mask


class _Kept:
    """The kept inputs of one block, all of whose channels keep equally many, and inv(H) on them.

    Leaving a channel out of the inverse and taking it in again with other entries are rank-e
    updates (e entries), so that one step costs a product of the inverse with a few columns.

    Attributes:
        mask: bool [C, taps].
    """

    def __init__(self, h: Array, wanted: Array, mask: Mask) -> None:
        self.mask = mask.copy()
        self._h, self._wanted = h, wanted  # wanted: H W^T [K, rows]
        self._index = np.flatnonzero(mask)
        self._inverse = _inverse(h[np.ix_(self._index, self._index)])

    def improve(self, channel: int, patterns: Mask) -> bool:
        """Give a channel its best pattern; True if that is another one than before."""
        entries, taps = len(self._index) // len(self.mask), patterns.shape[1]
        own = slice(channel * entries, (channel + 1) * entries)  # of the kept
        inputs = np.arange(channel * taps, (channel + 1) * taps)  # of all

        # Without the channel P becomes P - P_c inv(P_cc) P_c^T; its rows and columns are then zero.
        out = np.linalg.solve(self._inverse[own, own], self._inverse[own])
        cross = self._h[np.ix_(self._index, inputs)]
        solved = self._inverse @ cross - self._inverse[:, own] @ (out @ cross)
        # What H and H W^T are for the channel once the others have explained what they can.
        h = self._h[np.ix_(inputs, inputs)] - cross.T @ solved
        wanted = self._wanted[inputs] - solved.T @ self._wanted[self._index]

        before, *gains = _gains(h, wanted, np.stack([self.mask[channel], *patterns]))
        best = patterns[int(np.argmax(gains))]
        if max(gains) <= (1 + FALL) * before:
            return False
        self._inverse -= self._inverse[:, own] @ out
        corner = _inverse(h[np.ix_(best, best)])
        side = solved[:, best] @ corner
        self._inverse += side @ solved[:, best].T
        self._inverse[:, own], self._inverse[own] = -side, -side.T
        self._inverse[own, own] = corner
        self._index[own], self.mask[channel] = inputs[best], best
        return True


def _gains(h: Array, wanted: Array, patterns: Mask) -> list[float]:
    """What each pattern's inputs take off the error: tr(B^T inv(H) B) on them, B being ``wanted``."""
    entries = np.nonzero(patterns)[1].reshape(len(patterns), -1)
    own, right = h[entries[:, :, None], entries[:, None, :]], wanted[entries]
    gains: list[float] = np.einsum("per,per->p", right, np.linalg.solve(own, right)).tolist()
    return gains


def _connected(weight: Array, h: Array, mask: Mask, keeps: list[int]) -> list[Mask]:
    """Masks [K] of one block for each of ``keeps``: what is left when whole kernels are removed."""
    entries, index = int(mask[0].sum()), np.flatnonzero(mask)
    own = h[np.ix_(index, index)]
    # on the kept inputs the error is, but for a constant, the distance from their best weights
    best = cho_solve(cho_factor(own, lower=True), h[index] @ weight.T).T
    descent, found = sorted(set(keeps), reverse=True), {}
    for keep, kept in zip(
        descent, removal_masks(best, own, descent, entries, len(best)), strict=True
    ):
        found[keep] = (mask & kept[0][:, None]).ravel()
    return [found[keep] for keep in keeps]


def _scores(weight: Array, xx: NDArray[np.floating], taps: int) -> Array:
    """Weight times input norm of each entry [C, taps], squared and summed over a block."""
    scores: Array = np.square(weight).sum(axis=0) * np.diag(xx)
    return scores.reshape(-1, taps)


def _blocks(rows: Array, block: int) -> list[Array]:
    return [rows[start : start + block] for start in range(0, len(rows), block)]


def _inverse(h: Array) -> Array:
    inverse: Array = cho_solve(cho_factor(h, lower=True), np.eye(len(h)))
    return inverse


def _check(W: NDArray[np.floating], xx: NDArray[np.floating], taps: int) -> None:
    k = W.shape[1]
    if k % taps:
        raise PassError(
            "the weight is no convolution of these kernels",
            got=f"{k} inputs",
            allowed=f"a multiple of {taps}",
        )
    if xx.shape != (k, k):
        raise PassError(
            "the Gram matrix does not fit the weight", got=str(xx.shape), allowed=f"({k}, {k})"
        )
    check_finite("weight", W)
    check_finite("Gram matrix", xx)


def _check_patterns(patterns: Mask) -> None:
    entries = patterns.sum(axis=1)
    if not len(patterns) or entries.min() < 1 or entries.min() != entries.max():
        raise PassError(
            "patterns must keep the same number of entries",
            got=f"{len(patterns)} patterns of {sorted(set(entries.tolist()))} entries",
            allowed="at least one pattern, all of as many entries, at least 1",
        )
