"""Pruning of the inputs of a linear layer: choice by greedy OBS, then least squares on what stays.

One solver serves every structure: neurons of an FFN (all rows one block, group 1, on the down
projection), attention heads (all rows one block, group = head dimension, on the output projection),
balanced vector sparsity (block = outputs of a kernel tile, group 1) and its int8 form (group 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from passes.errors import PassError
from passes.solve.blas import one_thread
from passes.solve.gram import DAMPING, check_finite, damped
from passes.solve.removal import removal_masks

Array = NDArray[np.floating]
Pruned = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""The refitted weight [N, K], zero where removed; the mask [ceil(N / block), ceil(K / group)]."""


def prune_inputs(
    W: Array,
    xx: Array,
    keep: int,
    group: int = 1,
    block: int | None = None,
    *,
    damping: float = DAMPING,
) -> Pruned:
    """Keep equally many input groups for every block of outputs, and refit the weights on them.

    Minimises ``tr((W - W') H (W - W')^T)`` with H = xx + damping, greedily over what is removed and
    exactly (in float64) over the weights of what is kept.

    Args:
        W: [N, K] dense weight.
        xx: [K, K] Gram matrix X^T X of the inputs.
        keep: groups kept per block, 1 to ceil(K / group).
        group: adjacent inputs that stand or fall together; the last group may be shorter.
        block: output rows that share one list; the last block may be shorter. None is all rows.
        damping: ridge on the change of the weights, relative to the mean diagonal of xx.

    Raises:
        PassError: shapes that do not fit, ``keep`` out of range, NaN or infinity.
    """
    return prune_path(W, xx, [keep], group, block, damping=damping)[0]


@one_thread
def prune_path(
    W: Array,
    xx: Array,
    keeps: Iterable[int],
    group: int = 1,
    block: int | None = None,
    *,
    damping: float = DAMPING,
) -> list[Pruned]:
    """``prune_inputs`` for several counts, for little more than the price of the smallest.

    Greedy removal passes through every count on its way down, so all masks come from one descent.
    """
    keeps = list(keeps)
    block = len(W) if block is None else min(block, len(W))
    _check(W, xx, keeps, group)
    weight, h = np.asarray(W, dtype=np.float64), damped(xx, damping)
    descent = sorted(set(keeps), reverse=True)
    masks = dict(zip(descent, removal_masks(weight, h, descent, group, block), strict=True))
    return [(refit(weight, h, masks[keep], group, block), masks[keep]) for keep in keeps]


@one_thread
def refit(
    W: Array, h: Array, mask: NDArray[np.bool_], group: int, block: int
) -> NDArray[np.float32]:
    """The least-squares weight on kept inputs, ``W H[:, S] inv(H[S, S])`` in every block.

    Args:
        W: float64 [N, K] dense weight.
        h: float64 [K, K] positive definite (damped) Gram matrix.
        mask: bool [ceil(N / block), ceil(K / group)], kept groups.
        group: inputs a group.
        block: rows a block.
    """
    out = np.zeros(W.shape, dtype=np.float32)
    for b, kept in enumerate(kept_inputs(mask, group, W.shape[1])):
        rows = slice(b * block, (b + 1) * block)
        index = np.flatnonzero(kept)
        if len(index) == len(kept):
            out[rows] = W[rows]
            continue
        columns = h[:, index]
        try:
            factor = cho_factor(columns[index], lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError as error:
            raise PassError(
                "the Gram matrix of the kept inputs is singular",
                got=str(error),
                next="raise the damping, or calibrate on more data",
            ) from error
        right = columns.T @ W[rows].T
        out[rows, index] = cho_solve(factor, right, overwrite_b=True, check_finite=False).T
    return out


def kept_inputs(mask: NDArray[np.bool_], group: int, features: int) -> NDArray[np.bool_]:
    """A mask of groups [blocks, ceil(K / group)] as a mask of inputs [blocks, K]."""
    return np.repeat(mask, group, axis=1)[:, :features]


def _check(W: Array, xx: Array, keeps: Sequence[int], group: int) -> None:
    k = W.shape[1]
    groups = -(-k // group)
    if xx.shape != (k, k):
        raise PassError(
            "the Gram matrix does not fit the weight", got=str(xx.shape), allowed=f"({k}, {k})"
        )
    wrong = [keep for keep in keeps if not 1 <= keep <= groups]
    if wrong:
        raise PassError(
            "kept input groups out of range", got=str(wrong[0]), allowed=f"1 to {groups}"
        )
    check_finite("weight", W)
