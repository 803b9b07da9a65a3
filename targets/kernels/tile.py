"""The tuning space of all matrix products: a register tile over a packed block of outputs.

The tile of ``rows`` x ``nb`` accumulators stays in vector registers while the reduction runs; the
elementwise blocks that fusion put behind the product run on the tile before it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import tvm
from tvm import s_tir, tirx

from targets.kernels.blocks import (
    Block,
    Loop,
    Unsuited,
    anchor_in,
    decide,
    extent,
    flow,
    inline_single_use,
    vectorize_last,
    written,
)
from targets.kernels.intrin import dot_product
from targets.kernels.linear import ROW_SLACK, row_position
from targets.target import Target

ROW_OPTIONS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)


@dataclass(frozen=True)
class Tile:
    """One point of the space.

    Attributes:
        rows: rows of the register tile.
        rows_first: walk all rows for one block of weights (True), or all blocks for one tile row.
    """

    rows: int
    rows_first: bool = True


def tiles(func: tirx.PrimFunc, target: Target) -> list[Tile]:
    """The tiles worth trying, the one expected to be fastest first.

    The rule counts the rows computed, surplus ones of the last tile included, and a quarter of a row
    for what every tile costs besides (loads of the weights, clearing, storing).
    """
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    nodes = flow(sch)
    *_, rows, _, nb = (int(d) for d in written(sch, nodes[anchor_in(nodes)].block).shape)
    rows = max(1, rows - ROW_SLACK)
    columns = -(-nb // target.lanes)
    most = max(1, (target.registers - columns - 2) // columns)
    options = [r for r in ROW_OPTIONS if r <= min(most, rows)]
    options.sort(key=lambda r: (-(-rows // r) * (r + 0.25), -r))
    return [Tile(r) for r in options[:6]] + [Tile(r, rows_first=False) for r in options[:2]]


def tile_product(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused float32 matrix product, dense or sparse."""
    anchor = open_tile(sch, target, tile)
    r, _, j, k = sch.get_loops(anchor)[-4:]
    sch.reorder(k, r, j)
    sch.unroll(r)
    vectorize_last(sch, anchor, extent(sch, j))
    clear_accumulators(sch, anchor, k)


def tile_product_int8(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused int8 matrix product, dense or sparse."""
    anchor = open_tile(sch, target, tile)
    r, _, j, g, i = sch.get_loops(anchor)[-5:]
    intrinsic = dot_product(target)
    if intrinsic is None or extent(sch, j) % target.lanes:
        sch.reorder(g, r, i, j)
        sch.unroll(i)
        sch.unroll(r)
        sch.vectorize(j)
        clear_accumulators(sch, anchor, g)
        return
    jo, ji = sch.split(j, [None, target.lanes])
    sch.reorder(g, r, jo, ji, i)
    sch.unroll(r)
    sch.unroll(jo)
    init = sch.decompose_reduction(anchor, g)
    *_, rows, outer, inner = sch.get_loops(init)
    sch.unroll(rows)
    sch.vectorize(sch.fuse(outer, inner))
    hide_indices(sch, anchor)
    sch.tensorize(ji, intrinsic)


def hide_indices(sch: s_tir.Schedule, anchor: Block) -> None:
    """Take the int32 index list out of the reads that tensorize compares with the intrinsic's.

    The region of the activations keeps the loaded index in it, so that nothing is lost.
    """
    hidden = [
        position
        for position, region in enumerate(sch.get(anchor).reads)
        if region.source.dtype == "int32" and region.source.scope() == "global"
    ]
    if hidden:
        sch.unsafe_hide_buffer_access(anchor, "read", hidden)


def clear_accumulators(sch: s_tir.Schedule, anchor: Block, reduction: Loop) -> None:
    """Set the tile of (row, block, output) to zero before the loop ``reduction``."""
    *_, rows, columns = sch.get_loops(sch.decompose_reduction(anchor, reduction))
    sch.unroll(rows)
    sch.vectorize(columns)


def open_tile(sch: s_tir.Schedule, target: Target, tile: Tile) -> Block:
    """Split the output into tiles, bring product and epilogue into them.

    Returns the product block, whose innermost loops are then (row, block, output, reduction...).
    """
    first, *rest = flow(sch)
    if not first.family or not rest[-1].output or any(node.reduces for node in rest):
        raise Unsuited("not a product followed by elementwise work")
    anchor, last = first.block, rest[-1].block
    nb = int(written(sch, anchor).shape[-1])
    staged = inline_single_use(sch, rest[:-1])
    *lead, j = sch.get_loops(last)
    vector = gcd(extent(sch, j), nb)
    at = row_position([extent(sch, loop) for loop in lead])
    around = lead[:at]
    ro, ri = sch.split(lead[at], [None, decide(sch, ROW_OPTIONS, tile.rows)])
    jo, ji = sch.split(j, [None, nb])
    outer = [jo, *around, ro] if tile.rows_first else [*around, ro, jo]
    sch.reorder(*outer, ri, ji)
    inside = outer[-1]
    if target.threads > 1:
        inside = sch.fuse(*outer)
        sch.parallel(inside)
    for node in reversed(staged):
        sch.compute_at(node.block, ri)
        sch.set_scope(node.block, 0, "local")
        vectorize_last(sch, node.block, vector)
    sch.compute_at(anchor, inside, preserve_unit_loops=True)
    sch.set_scope(anchor, 0, "local")
    sch.unroll(ri)
    vectorize_last(sch, last, vector)
    return anchor
