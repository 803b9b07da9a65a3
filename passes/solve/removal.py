"""Which inputs to remove: greedy OBS in chunks, for many blocks of outputs at once.

For every block of rows W_b the aim is the set S of input groups with the smallest
``min tr((W_b - W') H (W_b - W')^T)`` over weights W' on S. With W' always optimal for what is left,
and P = inv(H_SS), removing group G adds ``tr(W'_G inv(P_GG) W'_G^T)`` and takes P to
``P - P[:,G] inv(P_GG) P[G,:]`` (Optimal Brain Surgeon, Hassibi & Stork 1993; layer by layer OBC,
Frantar & Alistarh 2022; in groups ZipLM, Kurtic et al. 2023).

One group at a time costs a pass over P for each. Here the cheapest few per cent are *candidates*:
exact greedy removal runs on their small part of P, where it sees how inputs stand in for one
another, and P itself is downdated once a chunk by a matrix product. On layers of MiniLM the errors
were those of the exact greedy order to 0.2 %. P is float32 where the conditioning allows it, since
it only decides what goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, get_blas_funcs, get_lapack_funcs, lapack

from passes.errors import PassError

Array = NDArray[np.floating]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

CHUNK = 0.03
"""Share of the remaining groups that one downdate removes."""

CANDIDATES = 3
"""Groups looked at in a chunk, as a multiple of those removed."""

COMPACT = 0.8
"""The arrays are compacted when fewer than this share of their groups is left."""

BATCH_BYTES = 256 << 20
"""Memory for the inverses of the blocks that are worked on together."""

FLOAT32_LIMIT = 1e4
"""Largest diagonal element of the inverse of the unit-diagonal H that is trusted to float32."""


def removal_masks(W: Array, h: Array, keeps: Sequence[int], group: int, block: int) -> list[Mask]:
    """Masks of kept groups, bool [ceil(N / block), ceil(K / group)], one for each of ``keeps``.

    Args:
        W: float64 [N, K] weight.
        h: float64 [K, K] positive definite Hessian.
        keeps: groups to keep in each block, descending: each mask is part of the one before.
        group: adjacent inputs that stand or fall together.
        block: output rows that share one list.
    """
    parts = [_select(batch, keeps) for batch in _batches(W, h, group, block)]
    return [np.concatenate(masks) for masks in zip(*parts, strict=True)]


def diagonal_of_inverse(h: Array) -> Array:
    """The diagonal [K] of inv(H)."""
    return np.diagonal(_inverse(np.array(h)))


@dataclass
class _Batch:
    """Blocks worked on together, on the groups that are left and some just removed (see ``alive``).

    Attributes:
        inverse: [B, M, M] P of each block; only its lower triangle is kept up to date.
        weight: [B, rows, M] weights optimal for the groups left.
        left: [B, M / group] original numbers of the groups.
        alive: [B, M / group] not yet removed.
        group: inputs a group.
        total: groups of the whole layer.
    """

    inverse: Array
    weight: Array
    left: Index
    alive: Mask
    group: int
    total: int


def _batches(W: Array, h: Array, group: int, block: int) -> list[_Batch]:
    """Split the blocks into batches that fit the memory; short groups and blocks are padded.

    A padding input has weight 0 and no correlation with any other, so that its group costs what it
    costs without it. H is scaled to unit diagonal, which changes no cost and steadies float32.
    """
    n, k = W.shape
    groups, blocks = -(-k // group), -(-n // block)
    scale = np.sqrt(np.diag(h))
    inverse = np.eye(groups * group)
    inverse[:k, :k] = _inverse(h / np.outer(scale, scale))
    exact = inverse.diagonal().max() > FLOAT32_LIMIT
    inverse = inverse.astype(np.float64 if exact else np.float32)
    weight = np.zeros((blocks * block, groups * group), dtype=inverse.dtype)
    weight[:n, :k] = W * scale
    weight = weight.reshape(blocks, block, groups * group)
    size = max(1, BATCH_BYTES // inverse.nbytes)
    return [
        _Batch(
            inverse=np.repeat(inverse[None], len(part), axis=0),
            weight=part.copy(),
            left=np.tile(np.arange(groups), (len(part), 1)),
            alive=np.ones((len(part), groups), dtype=bool),
            group=group,
            total=groups,
        )
        for part in (weight[b : b + size] for b in range(0, blocks, size))
    ]


def _select(batch: _Batch, keeps: Sequence[int]) -> list[Mask]:
    """Remove groups down to each count of ``keeps``; the masks [B, total] at those points."""
    remaining, masks = batch.total, []
    for keep in keeps:
        while remaining > keep:
            count = min(remaining - keep, max(1, int(CHUNK * remaining)))
            _remove(batch, _choose(batch, count, min(remaining, CANDIDATES * count + 8)))
            remaining -= count
            if remaining < COMPACT * batch.left.shape[1]:
                _compact(batch, remaining)
        masks.append(_kept(batch))
    return masks


def _kept(batch: _Batch) -> Mask:
    mask = np.zeros((len(batch.left), batch.total), dtype=bool)
    np.put_along_axis(mask, batch.left, batch.alive, axis=1)
    return mask


def _choose(batch: _Batch, count: int, candidates: int) -> Index:
    """Positions [B, count] of the groups to remove: exact greedy among the cheapest candidates."""
    costs = _costs(_own(batch.inverse, batch.group), batch.weight, batch.alive)
    # argpartition needs a position inside the axis: all groups may be candidates
    positions = np.argpartition(costs, candidates - 1, axis=1)[:, :candidates]
    inputs = _inputs(positions, batch.group)
    pairs = zip(batch.inverse, inputs[:, :, None], inputs[:, None, :], strict=True)
    inverse = np.stack([p[np.maximum(i, j), np.minimum(i, j)] for p, i, j in pairs])
    weight = np.take_along_axis(batch.weight, inputs[:, None, :], axis=2)
    alive = np.take_along_axis(batch.alive, positions, axis=1)
    picked = _greedy(inverse, weight, alive, batch.group, count)
    return np.take_along_axis(positions, picked, axis=1)


def _greedy(inverse: Array, weight: Array, alive: Mask, group: int, count: int) -> Index:
    """Remove ``count`` groups one at a time, always the cheapest, with exact updates in between."""
    blocks = np.arange(len(alive))
    picked = np.empty((len(alive), count), dtype=np.intp)
    for step in range(count):
        best = _costs(_own(inverse, group), weight, alive).argmin(axis=1)
        picked[:, step] = best
        alive[blocks, best] = False
        if step == count - 1:
            break  # nobody reads the update
        inputs = _inputs(best[:, None], group)
        rows = inverse[blocks[:, None], inputs]
        pivot = np.take_along_axis(rows, inputs[:, None, :], axis=2)
        solved = _invert(pivot) @ rows
        weight -= np.take_along_axis(weight, inputs[:, None, :], axis=2) @ solved
        inverse -= rows.transpose(0, 2, 1) @ solved
    return picked


def _remove(batch: _Batch, positions: Index) -> None:
    """Downdate inverse and weights of every block for the groups at ``positions`` [B, count]."""
    syrk, trtrs = (
        get_blas_funcs("syrk", (batch.inverse,)),
        get_lapack_funcs("trtrs", (batch.inverse,)),
    )
    for b, inputs in enumerate(_inputs(positions, batch.group)):
        inverse, weight = batch.inverse[b], batch.weight[b]
        rows = _symmetric_rows(inverse, inputs)
        lower = np.linalg.cholesky(rows[:, inputs])
        half, _ = trtrs(lower, rows, lower=1)
        own, _ = trtrs(lower, weight[:, inputs].T, lower=1)
        weight -= own.T @ half
        # in place: the transposed view is in Fortran order, its upper triangle is our lower one
        syrk(-1, half.T, beta=1, c=inverse.T, lower=0, overwrite_c=1)
        batch.alive[b, positions[b]] = False


def _symmetric_rows(lower: Array, index: NDArray[np.intp]) -> Array:
    """Rows ``index`` of the symmetric matrix of which only the lower triangle is known."""
    before = np.arange(len(lower)) <= index[:, None]
    return np.where(before, lower[index], lower[:, index].T)


def _compact(batch: _Batch, remaining: int) -> None:
    """Drop the removed groups from the arrays, so that later steps cost less."""
    blocks = len(batch.left)
    positions = np.nonzero(batch.alive)[1].reshape(blocks, remaining)
    inputs = _inputs(positions, batch.group)
    size = inputs.shape[1]
    inverse = np.empty((blocks, size, size), dtype=batch.inverse.dtype)
    for b, index in enumerate(inputs):
        np.take(batch.inverse[b][index], index, axis=1, out=inverse[b])
    batch.inverse = inverse
    batch.weight = np.take_along_axis(batch.weight, inputs[:, None, :], axis=2)
    batch.left = np.take_along_axis(batch.left, positions, axis=1)
    batch.alive = np.ones_like(batch.left, dtype=bool)


def _costs(own: Array, weight: Array, alive: Mask) -> Array:
    """What the objective gains [B, groups] if a group goes: tr(W_G inv(P_GG) W_G^T). Gone: inf."""
    group = own.shape[-1]
    if group == 1:
        costs = np.einsum("brm,brm->bm", weight, weight) / np.where(alive, own[..., 0, 0], 1)
    else:
        blocks, rows, _ = weight.shape
        safe = np.where(alive[:, :, None, None], own, np.eye(group, dtype=own.dtype))
        parts = weight.reshape(blocks, rows, -1, group).transpose(0, 2, 3, 1)
        costs = np.einsum("bgij,bgij->bg", np.linalg.inv(safe), parts @ parts.swapaxes(2, 3))
    return np.where(alive, costs, np.inf)


def _own(inverse: Array, group: int) -> Array:
    """P_GG of every group: the [B, groups, group, group] on the diagonal of [B, M, M]."""
    blocks, size, _ = inverse.shape
    split = inverse.reshape(blocks, size // group, group, size // group, group)
    own = np.diagonal(split, axis1=1, axis2=3).transpose(0, 3, 1, 2)
    if group == 1:
        return own
    lower = np.tril(own)
    return lower + np.tril(own, -1).swapaxes(2, 3)


def _inputs(positions: Index, group: int) -> Index:
    """Input numbers [B, count * group] of the groups at ``positions`` [B, count]."""
    return (positions[:, :, None] * group + np.arange(group)).reshape(len(positions), -1)


def _invert(matrices: Array) -> Array:
    return 1 / matrices if matrices.shape[-1] == 1 else np.linalg.inv(matrices)


def _inverse(h: Array) -> Array:
    """Lower triangle of the inverse of a symmetric positive definite matrix."""
    factor, _ = cho_factor(h, lower=True, overwrite_a=True, check_finite=False)
    inverse, info = lapack.dpotri(factor, lower=1, overwrite_c=True)
    if info != 0:
        raise PassError("the Gram matrix cannot be inverted", got=f"LAPACK dpotri info {info}")
    return inverse
