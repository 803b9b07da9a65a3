"""The tuning spaces of float16 products: a register tile of float16 sums, added to float32 ones.

The float32 sums wait between two chunks, in registers that are left or in the nearest cache: the tile is
as large as the float16 ones alone allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from tvm import s_tir, tirx

from targets.kernels.blocks import Block, Loop, anchor_in, bring, flow, new_schedule, written
from targets.kernels.linear import ROW_SLACK
from targets.kernels.multiply import clear_accumulators
from targets.kernels.multiply_lanes import lanes_registers, multiply_lanes, takes_vectors
from targets.kernels.tile import ROW_OPTIONS, Tile, open_tile
from targets.kernels.tile_conv import ConvTile, parts, tile_conv
from targets.target import Target

_LOWER = 4
"""Registers left free since inputs whose numbers are multiplied one by one must be in the lower 16 (Arm
Architecture Reference Manual, FMLA by element of halves)."""


def fp16_tiles(func: tirx.PrimFunc, target: Target) -> list[Tile]:
    """The tiles worth trying, the one expected to be fastest first."""
    sch = new_schedule(func)
    nodes = flow(sch)
    *_, rows, blocks, nb = (int(d) for d in written(sch, nodes[anchor_in(nodes)].block).shape)
    rows = max(1, rows - ROW_SLACK)
    one = fp16_rows(rows, nb, target)
    found = [Tile(r) for r in one[:5]] + [Tile(r, rows_first=False) for r in one[:2]]
    if blocks % 2 == 0:
        found += [Tile(r, blocks=2) for r in fp16_rows(rows, 2 * nb, target)[:2]]
    return found


def fp16_rows(rows: int, outputs: int, target: Target) -> list[int]:
    """How many of ``rows`` rows a tile of so many outputs may have, best guess first.

    What a tile costs besides its products, adding to float32 sums above all, counts as much as a row.
    """
    columns = -(-outputs // (2 * target.lanes))
    free = target.registers - columns - 2
    if target.architecture == "aarch64":
        free = lanes_registers(2 * target.lanes, target) - _LOWER
        free = min(free, target.registers // 4) if target.in_order else free
    most = max(1, free // columns)
    options = [r for r in ROW_OPTIONS if r <= min(most, rows)]
    return sorted(options, key=lambda r: (-(-rows // r) * (r + 1), -r))


def tile_product_fp16(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused float16 matrix product."""
    multiply_fp16(sch, *open_tile(sch, target, tile, parts=1), target)


def conv_tiles_fp16(func: tirx.PrimFunc, target: Target) -> Iterator[Callable[..., None]]:
    """Schedules worth trying for a float16 convolution, the one expected to be fastest first."""
    sch = new_schedule(func)
    _, anchor, rest = parts(sch)
    nb = int(written(sch, anchor.block).shape[-1])
    options = fp16_rows(int(written(sch, rest[-1].block).shape[2]), nb, target)
    points = [ConvTile(c) for c in options[:6]]
    for point in points + [ConvTile(c, rows_first=False) for c in options[:2]]:
        yield partial(tile_conv, target=target, tile=point, multiply=multiply_fp16)


def multiply_fp16(
    sch: s_tir.Schedule,
    anchor: Block,
    inside: Loop,
    target: Target,
    placed: Callable[[], None] = lambda: None,
) -> None:
    """Bring the float32 sums ``anchor`` under the loop ``inside`` over tiles, and into each of their steps
    the float16 sums that they are made of. ``placed`` is called when both are there."""
    (short,) = sch.get_producers(anchor)
    (*_, r, o, j), chunks = bring(sch, anchor, inside)
    sch.reorder(o, *chunks, r, j)
    sch.unroll(r)
    sch.vectorize(j)
    clear_accumulators(sch, anchor, chunks[0])
    (*_, r, o, j), inputs = bring(sch, short, chunks[-1])
    if takes_vectors(sch, short, target):
        multiply_lanes(sch, short, (r, o, j), inputs, target, placed)
        return
    sch.reorder(*inputs, r, o, j)
    sch.unroll(r)
    sch.unroll(o)
    sch.vectorize(j)
    *_, rows, outer, columns = sch.get_loops(sch.decompose_reduction(short, inputs[0]))
    sch.unroll(rows)
    sch.unroll(outer)
    sch.vectorize(columns)
    placed()
