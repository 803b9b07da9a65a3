"""The part of the tuning space of int8 products that USMMLA does: tiles of pairs of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from tvm import s_tir, tirx

from targets.kernels.blocks import (
    Block,
    Loop,
    anchor_in,
    bring,
    extent,
    flow,
    loops_under,
    new_schedule,
    uses,
    written,
)
from targets.kernels.intrin_matrix import GROUPS, ROWS, products_name, sums_name
from targets.kernels.linear import ROW_SLACK
from targets.kernels.tile import Tile, open_tile
from targets.kernels.tile_conv import ConvTile, parts, tile_conv
from targets.target import Target

ROW_OPTIONS = (2, 4, 6, 8)

MOST_ROWS, MOST_IN_ORDER = 6, 4
"""Rows of a tile of 8 outputs, beside 8 registers of weights and what they and inputs are made of: 8 rows spill
where LLVM schedules for Neoverse V1, 6 where it does for Cortex-A510."""


def matrix_tiles(func: tirx.PrimFunc, target: Target) -> list[Tile]:
    """The tiles worth trying, the one expected to be fastest first; none without USMMLA, or for one row."""
    sch = new_schedule(func)
    nodes = flow(sch)
    anchor = nodes[anchor_in(nodes)].block
    *_, rows, _, nb = (int(d) for d in written(sch, anchor).shape)
    if not _suited(sch, anchor, target) or rows <= ROW_SLACK:
        return []
    options = matrix_rows(rows - ROW_SLACK, nb, target)
    return [Tile(r) for r in options[:3]] + [Tile(r, rows_first=False) for r in options[:1]]


def conv_tiles_matrix(func: tirx.PrimFunc, target: Target) -> Iterator[Callable[..., None]]:
    """Schedules worth trying for a dense int8 convolution, as `matrix_tiles`."""
    sch = new_schedule(func)
    _, anchor, rest = parts(sch)
    if not _suited(sch, anchor.block, target):
        return
    columns = int(written(sch, rest[-1].block).shape[2])
    options = matrix_rows(columns, int(written(sch, anchor.block).shape[-1]), target)
    points = [ConvTile(c) for c in options[:3]] + [
        ConvTile(c, rows_first=False) for c in options[:1]
    ]
    for point in points:
        yield partial(
            tile_conv, target=target, tile=point, multiply=multiply_matrix, options=ROW_OPTIONS
        )


def _suited(sch: s_tir.Schedule, anchor: Block, target: Target) -> bool:
    """True if the inputs of a product are whole vectors of codes and the target multiplies matrices."""
    outputs = int(written(sch, anchor).shape[-1])
    groups = extent(sch, sch.get_loops(anchor)[-2])
    return products_name(target, outputs) is not None and groups % GROUPS == 0


def matrix_rows(rows: int, nb: int, target: Target) -> list[int]:
    """How many of ``rows`` rows a tile may have, best guess first; as ``tile.row_options`` counts."""
    most = max(ROWS, (MOST_IN_ORDER if target.in_order else MOST_ROWS) * 8 // nb)
    options = [r for r in ROW_OPTIONS if r <= min(most, rows + rows % 2)]
    return sorted(options, key=lambda r: (-(-rows // r) * (r + 1), -r))


def tile_product_matrix(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused dense product of int8."""
    multiply_matrix(sch, *open_tile(sch, target, tile, ROW_OPTIONS), target)


def multiply_matrix(
    sch: s_tir.Schedule,
    anchor: Block,
    inside: Loop,
    target: Target,
    placed: Callable[[], None] = lambda: None,
) -> None:
    """``multiply.multiply_int8`` by pairs of rows: their sums are put in order behind the loop over inputs."""
    ordered = sch.cache_write(anchor, 0, "local")
    (*_, row, o, j), _ = bring(sch, ordered, inside)
    several, pair = sch.split(row, [None, ROWS])
    sch.reorder(o, several, pair, j)
    sch.unroll(several)
    copies = pair
    (*_, row, o, j), (*outer, g, i) = bring(sch, anchor, inside)
    step, groups = sch.split(g, [None, GROUPS])
    several, pair = sch.split(row, [None, ROWS])
    sch.reorder(*outer, step, o, several, pair, groups, j, i)
    sch.unroll(several)
    load_rows(sch, anchor, several)
    first = [*outer, step][0]
    *_, rows, two, columns = sch.get_loops(sch.decompose_reduction(anchor, first))
    sch.unroll(rows)
    sch.unroll(two)
    sch.vectorize(columns)
    placed()
    outputs = int(written(sch, anchor).shape[-1])
    sch.tensorize(pair, products_name(target, outputs))
    sch.tensorize(copies, sums_name(target, outputs))


def load_rows(sch: s_tir.Schedule, anchor: Block, at: Loop) -> None:
    """Load the codes of a pair of rows: where they lie apart, and the last row may stand for one beyond."""
    block = sch.get(anchor)
    axes = [axis.var for axis in block.iter_vars]
    region = block.reads[0].region
    used = {i for i, axis in enumerate(axes) if any(uses(r.min, axis) for r in region)}
    spatial = sum(axis.iter_type == tirx.IterVar.DataPar for axis in block.iter_vars)
    last = [spatial - 3, len(axes) - 2, len(axes) - 1]  # row, group, input of the group
    order = [*sorted(used - set(last)), *last]
    index = tirx.IndexMap.from_func(
        lambda *position: tuple(position[i] for i in order), ndim=len(axes), index_dtype="int64"
    )
    copy = sch.reindex_cache_read(anchor, 0, "local", index)
    sch.compute_at(copy, at, preserve_unit_loops=True)
    *_, row, g, i = loops_under(sch, copy, at)
    sch.unroll(row)
    sch.vectorize(sch.fuse(g, i))
