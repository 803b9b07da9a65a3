"""The tuning space of depthwise convolutions: a few columns by a vector or two of channels."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from tvm import s_tir, tirx

from targets.kernels.blocks import (
    UnsuitedError,
    bring,
    decide,
    extent,
    flow,
    inline_single_use,
    new_schedule,
    vectorize_own,
    written,
)
from targets.target import Target

COLUMN_OPTIONS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)
VECTOR_OPTIONS = (1, 2, 4)


@dataclass(frozen=True)
class DepthwiseTile:
    """One point of the space.

    Attributes:
        columns: output columns of the register tile.
        vectors: vector registers of channels for each column.
    """

    columns: int
    vectors: int


def depthwise_tiles(func: tirx.PrimFunc, target: Target) -> list[DepthwiseTile]:
    """The tiles worth trying, the one expected to be fastest first: few surplus columns, many sums.

    Taps outnumber sums, so that half of the registers are left to them.
    """
    sch = new_schedule(func)
    *_, wide, channels = (int(d) for d in written(sch, flow(sch)[-1].block).shape)
    points = [
        DepthwiseTile(c, v)
        for v in VECTOR_OPTIONS
        for c in COLUMN_OPTIONS
        if c <= wide and c * v <= target.registers // 2
        if v == 1 or channels % (v * target.lanes) == 0
    ]
    surplus = {p: -(-wide // p.columns) * p.columns - wide for p in points}
    return sorted(points, key=lambda p: (surplus[p], -p.columns * p.vectors, -p.vectors))[:6]


def tile_depthwise(sch: s_tir.Schedule, target: Target, tile: DepthwiseTile) -> None:
    """Schedule a fused depthwise convolution.

    The loops over rows and over column tiles are cut where the border begins, so that tiles within the
    image have no condition in them.
    """
    anchor, *rest = flow(sch)
    if not anchor.family or not rest or not rest[-1].output or rest[-1].rank != 4:
        raise UnsuitedError("not a depthwise convolution followed by elementwise work")
    staged = inline_single_use(sch, rest[:-1])
    image, row, column, channel = sch.get_loops(rest[-1].block)
    lanes = gcd(extent(sch, channel), target.lanes)
    decide(sch, VECTOR_OPTIONS, tile.vectors)
    width = gcd(extent(sch, channel), lanes * tile.vectors)
    co, ci = sch.split(column, [None, decide(sch, COLUMN_OPTIONS, tile.columns)])
    chunk, vector = sch.split(channel, [None, width])
    if target.threads > 1:
        parts, row = sch.split(row, [min(extent(sch, row), 2 * target.threads), None])
        shared = sch.fuse(image, parts)
        sch.parallel(shared)
    sch.reorder(row, co, chunk, ci, vector)
    for loop in (row, co):
        sch.annotate(loop, "pragma_loop_partition_hint", 1)
    for node in reversed(staged):
        bring(sch, node.block, ci)
        vectorize_own(sch, node.block)
    sch.unroll(ci)
    if width > 1:
        sch.vectorize(vector)
    (*_, c, j), (r, s) = bring(sch, anchor.block, chunk)
    sch.reorder(r, s, c, j)
    for loop in (s, c):
        sch.unroll(loop)
    sch.vectorize(j)
    *_, c, j = sch.get_loops(sch.decompose_reduction(anchor.block, r))
    sch.unroll(c)
    sch.vectorize(j)
