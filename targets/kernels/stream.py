"""The tuning space of products on coded weights: a few rows, weights read once from memory.

A tile is some rows by some blocks of outputs: several blocks give the multiply-adds of a single row
enough sums to be independent of each other. Within a group of inputs the tile's sums are registers;
the scaled sums of all groups are beside them and are touched once a group.
"""

from __future__ import annotations

from tvm import s_tir, tirx

from targets.kernels.blocks import (
    Block,
    Loop,
    anchor_in,
    bring,
    flow,
    new_schedule,
    written,
)
from targets.kernels.default import schedule_row_reduction
from targets.kernels.linear import ROW_SLACK
from targets.kernels.linear_weight_only import WORD
from targets.kernels.tile import BLOCK_OPTIONS, ROW_OPTIONS, Tile, open_tile
from targets.target import Target

AT_ONCE = 2
"""Inputs whose 8-bit codes are decoded side by side."""

BUSY = 8
"""Vectors of sums that keep two multiply-adders of four cycles busy."""


def streams(func: tirx.PrimFunc, target: Target) -> list[Tile]:
    """The tiles worth trying, the one expected to be fastest first.

    As many rows as there are, since each weight is decoded once for all rows of a tile; then as many
    blocks as keep the multiply-adders busy, no more than threads can share.
    """
    sch = new_schedule(func)
    nodes = flow(sch)
    *_, rows, blocks, nb = (int(d) for d in written(sch, nodes[anchor_in(nodes)].block).shape)
    rows = max(1, rows - ROW_SLACK)
    columns = -(-nb // target.lanes)
    # AArch64 loads what it multiplies: decoded weights and sums of both kinds share its registers
    each = columns if target.architecture == "x86_64" else 3 * columns
    most = (target.registers - 2 * columns - target.operands) // each
    points = [
        Tile(r, blocks=b)
        for r in ROW_OPTIONS
        for b in BLOCK_OPTIONS
        if r <= rows and r * b <= most and blocks % b == 0 and blocks // b >= target.threads
    ]
    points = points or [Tile(1)]

    def expected(point: Tile) -> tuple[float, int]:
        tiles = -(-rows // point.rows)
        sums = point.rows * point.blocks * columns
        return tiles * (1 + max(0, BUSY - sums)), sums

    return sorted(points, key=expected)[:8]


def stream_product(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused product on coded weights."""
    nodes = flow(sch)
    parts = anchor_in(nodes)
    part, *total = (node.block for node in nodes[:parts])
    anchor, inside = open_tile(sch, target, tile, parts=parts)
    (*_, r, o, j), (g,) = bring(sch, anchor, inside)
    sch.reorder(g, r, o, j)
    sch.unroll(r)
    sch.unroll(o)
    sch.vectorize(j)
    (*_, r, o, one, j), (i,) = bring(sch, part, g)
    packed = any(str(region.source.dtype) == "uint32" for region in sch.get(part).reads)
    i, several = sch.split(i, [None, WORD if packed else AT_ONCE])
    sch.reorder(one, i, several, r, o, j)
    for loop in (several, r, o):
        sch.unroll(loop)
    sch.vectorize(j)
    clear(sch, part, i)
    clear(sch, anchor, g)
    for block in total:
        *spatial, i = sch.get_loops(block)
        schedule_row_reduction(sch, block, spatial, [i], target, many=False)


def clear(sch: s_tir.Schedule, block: Block, reduction: Loop) -> None:
    """Set the sums of the tile to zero before the loop ``reduction``."""
    *_, r, o, j = sch.get_loops(sch.decompose_reduction(block, reduction))
    sch.unroll(r)
    sch.unroll(o)
    sch.vectorize(j)
