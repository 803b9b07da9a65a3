"""The part of the tuning space of products that AMX does: one or two tiles of rows, two of outputs.

The sums of a tile go through memory in the first level cache, where the epilogue picks them up.
"""

from __future__ import annotations

from math import gcd, prod

from tvm import s_tir, tirx

from targets.kernels.amx_nest import SIDE, TILES, groups_at_once
from targets.kernels.blocks import (
    Block,
    anchor_in,
    bring,
    extent,
    flow,
    new_schedule,
    vectorize_last,
    written,
)
from targets.kernels.linear import ROW_SLACK
from targets.kernels.tile import Tile, open_tile
from targets.target import Target

ROW_OPTIONS = (SIDE, 2 * SIDE)

FEWEST_GROUPS = SIDE // 4
"""Groups of inputs in a step below which a tile is too empty to be worth trying."""

COPIED = 64
"""Numbers of a row that are copied at once."""


def amx_tiles(func: tirx.PrimFunc, target: Target) -> list[Tile]:
    """The tiles worth trying, the one expected to be fastest first; none without AMX, or for one row."""
    sch = new_schedule(func)
    nodes = flow(sch)
    anchor = nodes[anchor_in(nodes)].block
    *_, rows, _, nb = (int(d) for d in written(sch, anchor).shape)
    groups = extent(sch, sch.get_loops(anchor)[-2])
    if not target.has_tiles or rows <= ROW_SLACK or nb not in (SIDE, 2 * SIDE):
        return []
    if groups_at_once(groups) < FEWEST_GROUPS:
        return []
    options = [r for r in ROW_OPTIONS if -(-(rows - ROW_SLACK) // r) * r <= rows]
    options.sort(key=lambda r: -(-(rows - ROW_SLACK) // r) * (r + 1))
    return [Tile(r, first) for r in options for first in (True, False)]


def tile_product_amx(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused dense product of int8 or bfloat16 for ``lower_tiles``."""
    anchor, inside = open_tile(
        sch, target, tile, ROW_OPTIONS, unroll=False, share=shares(sch, target, tile)
    )
    rows = int(written(sch, anchor).shape[-3]) - ROW_SLACK
    (*_, r, o, j), (g, i) = bring(sch, anchor, inside)
    sch.reorder(o, g, r, j, i)
    sch.annotate(o, TILES, 1)
    if rows % tile.rows:
        repeat_last_row(sch, anchor)


def shares(sch: s_tir.Schedule, target: Target, tile: Tile) -> int:
    """Equal parts of the tiles for the threads: as few as there can be, each configures the unit."""
    nodes = flow(sch)
    shape = written(sch, nodes[anchor_in(nodes)].block).shape
    *outer, rows, blocks, _ = (int(d) for d in shape)
    total = prod(outer) * blocks * -(-(rows - ROW_SLACK) // tile.rows)
    return next(p for p in range(min(target.threads, total), total + 1) if total % p == 0)


def repeat_last_row(sch: s_tir.Schedule, anchor: Block) -> None:
    """Copy the activations with rows beyond the end, so that every tile of them is whole in memory."""
    activations = sch.get(anchor).reads[0].source
    group = extent(sch, sch.get_loops(anchor)[-1])

    def place(*axes: tirx.Var) -> tuple[tirx.Expr, ...]:
        *rows, _, _, g, i = axes
        return (*rows, g * group + i)

    count = len(sch.get(anchor).iter_vars)
    order = tirx.IndexMap.from_func(place, ndim=count, index_dtype="int64")
    copy = sch.reindex_cache_read(anchor, 0, "global", order)
    vectorize_last(sch, copy, gcd(int(activations.shape[-1]), COPIED))
