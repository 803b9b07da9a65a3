"""Dense float32 linear layers: ``y = x W^T`` with W packed at compile time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.primfunc import axis, dims, family, prim_func

FAMILY_NAME = "linear"

ROW_SLACK = 15
"""Rows that an accumulator has beyond the real ones, so that a register tile of up to 16 rows may
overhang the end: its surplus rows repeat the last real one and are never stored."""


def row_position(lead: Sequence[int]) -> int:
    """Which of the leading dimensions is the one of rows: the last that is longer than 1."""
    long = [i for i, d in enumerate(lead) if int(d) > 1]
    return long[-1] if long else len(lead) - 1


def input_index(lead: Sequence[int], index: Sequence[tirx.Expr]) -> tuple[tirx.Expr, ...]:
    """Position in the dimensions ``lead`` of a position ``[*outer, row]`` in the accumulator."""
    *outer, row = index
    at = row_position(lead)
    rows = int(lead[at])
    row = tirx.min(row, tirx.IntImm("int64", rows - 1)) if rows > 1 else tirx.IntImm("int64", 0)
    return (*outer, row, *(tirx.IntImm("int64", 0) for _ in lead[at + 1 :]))


def accumulator_shape(lead: Sequence[int], n: int, nb: int) -> tuple[tirx.IntImm, ...]:
    """[*outer, rows with slack, blocks of outputs, outputs of a block]."""
    at = row_position(lead)
    rows = int(lead[at])
    return dims(*lead[:at], rows if rows == 1 else rows + ROW_SLACK, -(-n // nb), nb)


def accumulated(acc: te.Tensor, lead: Sequence[int], index: Sequence[tirx.Expr]) -> tirx.Expr:
    """The accumulator of output ``index`` = [*lead, n]."""
    nb = acc.shape[-1]
    return acc[(*index[: row_position(lead) + 1], index[-1] // nb, index[-1] % nb)]


def dense(lead: Sequence[int], k: int, n: int, nb: int) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[*lead, k], w f32[ceil(n/nb), k, nb]) -> y f32[*lead, n]``."""
    x = te.placeholder(dims(*lead, k), "float32", name="x")
    w = te.placeholder(dims(-(-n // nb), k, nb), "float32", name="w")
    kk = axis(k, "k")
    acc = te.compute(
        accumulator_shape(lead, n, nb),
        lambda *i: te.sum(x[(*input_index(lead, i[:-2]), kk)] * w[i[-2], kk, i[-1]], axis=kk),
        name="linear",
        attrs=family(FAMILY_NAME),
    )
    y = te.compute(dims(*lead, n), lambda *i: accumulated(acc, lead, i), name="y")
    return prim_func([x, w, y])


def pack_dense(weight: NDArray[np.float32], nb: int) -> NDArray[np.float32]:
    """float32 [N, K] to [ceil(N/nb), K, nb]; outputs beyond N are zero."""
    n, k = weight.shape
    padded = np.zeros((-(-n // nb) * nb, k), np.float32)
    padded[:n] = weight
    return np.ascontiguousarray(padded.reshape(-1, nb, k).transpose(0, 2, 1))
