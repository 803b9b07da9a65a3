"""Fewer tokens: each one that is like an earlier one is averaged into it, and padding goes first.

Which tokens go is decided as leader clustering does it. A token costs what merging it into the most
similar token before it would lose: the number of tokens that it stands for already, times one minus
their cosine. The tokens of least cost go, each into the most similar one before it that stays; sizes
are tracked, and the logarithm of what a token grew by is added to its attention bias, so that
attention weighs it as all the tokens that it stands for (Bolya et al., Token Merging, 2023, with
every earlier token in place of half of all tokens). The first token has none before it and stays.
"""

# TVMScript is read as Python by TVM alone: its annotations are buffers, not types.
# mypy: disable-error-code="valid-type, untyped-decorator, no-any-return"

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx
from tvm.script import tirx as T

from targets.kernels.primfunc import FAMILY, dims, prim_func

FAMILY_NAME = "merge_tokens"

PADDING = -5e3
"""A token whose attention bias is below this is padding: nothing can see it."""

STRIDE = 3
"""Similarities are those of every third channel: on MiniLM they choose as well as all of them."""

TILE = 6
"""Rows of the register tile of similarities; with two vectors of columns it fits 16 registers."""

_OPAQUE = 8  # relax's OpPatternKind: nothing is fused into it
_LOWEST = float(np.finfo(np.float32).min)


def merge_tokens(batch: int, seq: int, keep: int, width: int, lanes: int) -> tirx.PrimFunc:
    """PrimFunc that leaves ``keep`` of ``seq`` tokens, in their order.

    ``(x f32[batch, seq, width], bias f32[batch, 1, 1, seq], size f32[batch, seq])
    -> (y f32[batch, keep, width], bias f32[batch, 1, 1, keep], size f32[batch, keep],
    place i32[batch, seq])``. ``size`` counts the tokens that each stands for, ``place`` tells for
    each token which one stands for it now. Places are valid whatever x is, NaN included.

    Args:
        lanes: floats of a vector register.

    Raises:
        ValueError: ``keep`` is not from 1 to ``seq``.
    """
    if not 1 <= keep <= seq:
        raise ValueError(f"{keep} of {seq} tokens cannot be kept")
    step = 2 * lanes
    columns = -(-seq // step) * step
    chunk = gcd(width, step)
    tiles = -(-seq // TILE)
    looked = -(-width // STRIDE)
    batches, seqs, keeps, wide, looks, cols = dims(batch, seq, keep, width, looked, columns)
    zero = tirx.IntImm("int64", 0)

    @T.prim_func(private=True, s_tir=True)
    def kernel(
        x: T.Buffer((batches, seqs, wide), "float32"),
        bias: T.Buffer(dims(batch, 1, 1, seq), "float32"),
        size: T.Buffer((batches, seqs), "float32"),
        merged: T.Buffer((batches, keeps, wide), "float32"),
        new_bias: T.Buffer(dims(batch, 1, 1, keep), "float32"),
        new_size: T.Buffer((batches, keeps), "float32"),
        place: T.Buffer((batches, seqs), "int32"),
    ) -> None:
        T.func_attr({"op_pattern": _OPAQUE, "tirx.noalias": True})
        with T.sblock("root"):
            T.sblock_attr({FAMILY: FAMILY_NAME})
            packed = T.sblock_alloc_buffer(dims(columns // step, looked, step), "float32")
            like = T.sblock_alloc_buffer(dims(tiles * TILE, columns), "float32")
            tile = T.sblock_alloc_buffer(dims(TILE, step), "float32", scope="local")
            real = T.sblock_alloc_buffer((cols,), "int32")
            inverse = T.sblock_alloc_buffer((cols,), "float32")
            best = T.sblock_alloc_buffer((cols,), "float32")
            cost = T.sblock_alloc_buffer((cols,), "float32")
            rank = T.sblock_alloc_buffer((cols,), "int32")
            slot = T.sblock_alloc_buffer((cols,), "int32")
            leader = T.sblock_alloc_buffer((cols,), "int32")
            count = T.sblock_alloc_buffer(dims(1), "int32")
            for n in T.serial(batches):
                # tokens along the vector, so that nothing is reduced within one
                for j in T.serial(tirx.IntImm("int64", columns // step)):
                    for d in T.serial(looks):
                        for v in T.vectorized(tirx.IntImm("int64", step)):
                            packed[j, d, v] = x[n, T.min(j * step + v, seqs - 1), d * STRIDE]
                for i in T.serial(tirx.IntImm("int64", tiles)):
                    for j in T.serial(tirx.IntImm("int64", columns // step)):
                        if j * step + step > i * TILE:  # only later tokens look at a row
                            for r in T.unroll(tirx.IntImm("int64", TILE)):
                                for v in T.vectorized(tirx.IntImm("int64", step)):
                                    tile[r, v] = T.float32(0)
                            for d in T.serial(looks):
                                for r in T.unroll(tirx.IntImm("int64", TILE)):
                                    for v in T.vectorized(tirx.IntImm("int64", step)):
                                        tile[r, v] = (
                                            tile[r, v]
                                            + x[n, T.min(i * TILE + r, seqs - 1), d * STRIDE]
                                            * packed[j, d, v]
                                        )
                            for r in T.unroll(tirx.IntImm("int64", TILE)):
                                for v in T.vectorized(tirx.IntImm("int64", step)):
                                    like[i * TILE + r, j * step + v] = tile[r, v]
                for j in T.serial(seqs):
                    real[j] = T.Cast("int32", bias[n, zero, zero, j] > T.float32(PADDING))
                    # a NaN takes the other branch of every comparison
                    inverse[j] = T.Select(
                        like[j, j] > T.float32(1e-30),
                        T.float32(1) / T.sqrt(like[j, j]),
                        T.float32(0),
                    )
                    best[j] = T.float32(-1)
                for k in T.serial(seqs):
                    if real[k] != 0:
                        for j in T.vectorized(cols):
                            best[j] = T.Select(
                                T.And(j > k, like[k, j] * inverse[k] * inverse[j] > best[j]),
                                like[k, j] * inverse[k] * inverse[j],
                                best[j],
                            )
                for j in T.serial(seqs):
                    cost[j] = T.Select(
                        real[j] == 0,
                        T.float32(-1),
                        T.Select(best[j] < 1, (1 - best[j]) * size[n, j], T.float32(0)),
                    )
                    rank[j] = 0
                    leader[j] = 0
                    best[j] = T.float32(_LOWEST)
                if real[0] != 0:
                    cost[0] = T.float32(-_LOWEST)
                for k in T.serial(seqs):
                    for j in T.vectorized(cols):
                        rank[j] = rank[j] + T.Cast(
                            "int32",
                            T.Or(cost[k] > cost[j], T.And(cost[k] == cost[j], k < j)),
                        )
                count[0] = 0
                for k in T.serial(seqs):
                    if rank[k] < keep:
                        slot[k] = count[0]
                        count[0] = count[0] + 1
                        if real[k] != 0:
                            for j in T.vectorized(cols):
                                leader[j] = T.Select(
                                    T.And(j > k, like[k, j] * inverse[k] > best[j]),
                                    slot[k],
                                    leader[j],
                                )
                                best[j] = T.Select(
                                    T.And(j > k, like[k, j] * inverse[k] > best[j]),
                                    like[k, j] * inverse[k],
                                    best[j],
                                )
                for k in T.serial(seqs):
                    place[n, k] = T.Select(rank[k] < keep, slot[k], leader[k])
                    if rank[k] < keep:
                        new_size[n, slot[k]] = size[n, k]
                        for d in T.serial(tirx.IntImm("int64", width // chunk)):
                            for v in T.vectorized(tirx.IntImm("int64", chunk)):
                                merged[n, slot[k], d * chunk + v] = (
                                    x[n, k, d * chunk + v] * size[n, k]
                                )
                for k in T.serial(seqs):
                    if T.And(rank[k] >= keep, real[k] != 0):
                        new_size[n, leader[k]] = new_size[n, leader[k]] + size[n, k]
                        for d in T.serial(tirx.IntImm("int64", width // chunk)):
                            for v in T.vectorized(tirx.IntImm("int64", chunk)):
                                merged[n, leader[k], d * chunk + v] = (
                                    merged[n, leader[k], d * chunk + v]
                                    + x[n, k, d * chunk + v] * size[n, k]
                                )
                for k in T.serial(seqs):
                    if rank[k] < keep:
                        new_bias[n, zero, zero, slot[k]] = bias[n, zero, zero, k] + T.log(
                            new_size[n, slot[k]] / size[n, k]
                        )
                        for d in T.serial(tirx.IntImm("int64", width // chunk)):
                            for v in T.vectorized(tirx.IntImm("int64", chunk)):
                                merged[n, slot[k], d * chunk + v] = merged[
                                    n, slot[k], d * chunk + v
                                ] * (T.float32(1) / new_size[n, slot[k]])

    return kernel


def gather_rows(shape: Sequence[int], rows: int, dtype: str = "float32") -> tirx.PrimFunc:
    """PrimFunc ``(x [batch, n, ...], index i32[batch, rows]) -> y [batch, rows, ...]`` of rows of x.

    Args:
        shape: of x.
        dtype: of x and y.
    """
    batch, _, *rest = shape
    x = te.placeholder(dims(*shape), dtype, name="x")
    index = te.placeholder(dims(batch, rows), "int32", name="index")
    y = te.compute(
        dims(batch, rows, *rest),
        lambda n, i, *at: x[(n, index[n, i].astype("int64"), *at)],
        name="y",
    )
    return prim_func([x, index, y])


class Merged(NamedTuple):
    """What ``merge_tokens`` gives for one sample, and the tokens kept: numbers i64[keep], rising."""

    y: NDArray[np.floating]
    bias: NDArray[np.floating]
    size: NDArray[np.floating]
    place: NDArray[np.int32]
    kept: NDArray[np.intp]


def merge_reference(
    x: NDArray[np.floating], bias: NDArray[np.floating], size: NDArray[np.floating], keep: int
) -> Merged:
    """What the kernel computes for one sample, in NumPy and in the precision of x.

    Args:
        x: [seq, width].
        bias, size: [seq].
        keep: tokens left.
    """
    seq = len(x)
    seen = x[:, ::STRIDE]
    real = bias > PADDING
    norms = np.sqrt(np.square(seen).sum(axis=1))
    unit = seen / np.where(norms > 1e-15, norms, np.inf)[:, None]
    like = np.where(
        np.tri(seq, k=-1, dtype=bool), unit @ unit.T, -np.inf
    )  # [token, an earlier one]
    nearest = np.where(real, like, -np.inf).max(axis=1, initial=-1.0)
    cost = np.where(real, np.maximum(1 - nearest, 0) * size, -1)
    cost[0] = np.inf if real[0] else -1
    kept = np.sort(np.argsort(-cost, kind="stable")[:keep])
    place = np.zeros(seq, np.int32)
    place[kept] = np.arange(keep)
    gone = np.setdiff1d(np.nonzero(real)[0], kept)
    place[gone] = np.where(real[kept], like[np.ix_(gone, kept)], -np.inf).argmax(axis=1)
    grown, y = size[kept].copy(), x[kept] * size[kept, None]
    np.add.at(grown, place[gone], size[gone])
    np.add.at(y, place[gone], x[gone] * size[gone, None])
    new_bias = bias[kept] + np.log(grown / size[kept])
    return Merged(y / grown[:, None], new_bias, grown, place, kept)
