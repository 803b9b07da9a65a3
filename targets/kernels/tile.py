"""The tuning space of all matrix products: a register tile over a packed block of outputs.

The tile of ``rows`` x ``nb`` accumulators stays in vector registers while the reduction runs; the
elementwise blocks that fusion put behind the product run on the tile before it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from tvm import s_tir, tirx

from targets.kernels.blocks import (
    Block,
    Loop,
    UnsuitedError,
    anchor_in,
    bring,
    decide,
    extent,
    flow,
    inline_single_use,
    new_schedule,
    vectorize_last,
    written,
)
from targets.kernels.cache import passing_bytes, strip_bytes
from targets.kernels.linear import ROW_SLACK, row_position
from targets.kernels.multiply import multiply_bf16, multiply_in_tile, multiply_int8
from targets.kernels.multiply_lanes import lanes_registers, takes_vectors
from targets.kernels.operands import operand_bytes
from targets.target import Target

ROW_OPTIONS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
BLOCK_OPTIONS = (1, 2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Tile:
    """One point of the space.

    Attributes:
        rows: rows of the register tile.
        rows_first: walk all rows for one block of weights (True), or all blocks for one tile row.
        blocks: packed blocks of outputs of the tile; it divides their number.
    """

    rows: int
    rows_first: bool = True
    blocks: int = 1


def tiles(func: tirx.PrimFunc, target: Target, int8: bool) -> list[Tile]:
    """The tiles worth trying, the one expected to be fastest first."""
    sch = new_schedule(func)
    nodes = flow(sch)
    anchor = nodes[anchor_in(nodes)].block
    *_, rows, _, nb = (int(d) for d in written(sch, anchor).shape)
    by_lanes = takes_vectors(sch, anchor, target)
    options = row_options(max(1, rows - ROW_SLACK), nb, target, int8, by_lanes)
    rows_first = [Tile(r) for r in options[:6]]
    blocks_first = [Tile(r, rows_first=False) for r in options[:2]]
    if only_weights_stay(*operand_bytes(sch, anchor), target):
        return blocks_first[:1] + rows_first + blocks_first[1:]
    return rows_first + blocks_first


def only_weights_stay(inputs: int, weights: int, target: Target) -> bool:
    """Whether all weights stay in the second-level cache while rows pass by, and the inputs of all rows do not.

    Then each row is read once, not once for every block of weights. A Zen 5 core, whose third-level cache brings
    them in time, gained 1 % in float32, and nothing in int8.
    """
    return inputs > strip_bytes(target) and weights <= passing_bytes(target)


def row_options(
    rows: int, nb: int, target: Target, int8: bool = False, by_lanes: bool = False
) -> list[int]:
    """How many of ``rows`` rows a register tile of ``nb`` outputs may have, best guess first.

    ``by_lanes`` if the product takes whole vectors of inputs, see `takes_vectors`.
    The rule counts the rows computed, surplus ones of the last tile included, and a quarter of a row
    for what every tile costs besides (loads of the weights, clearing, storing).
    """
    pairs = 2 if int8 and not target.dot else 1  # without a dot product, those of inputs are apart
    columns = -(-nb * pairs // target.lanes)
    weights = columns
    if int8 and target.architecture == "aarch64" and target.dot != "usdot":
        weights += columns  # and what is made of them: they as int16, or their sums
    if int8 and target.dot == "sdot":
        weights += 2  # ones to sum weights by, what makes unsigned codes signed
    free = target.registers - weights - target.operands
    if by_lanes:
        free = lanes_registers(nb, target, int8)
    most = max(1, free // columns)
    options = [r for r in ROW_OPTIONS if r <= min(most, rows)]
    return sorted(options, key=lambda r: (-(-rows // r) * (r + 0.25), -r))


def tile_product(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused float32 matrix product, dense or sparse."""
    multiply_in_tile(sch, *open_tile(sch, target, tile), target)


def tile_product_int8(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused int8 matrix product, dense or sparse, with what the target has for it."""
    multiply_int8(sch, *open_tile(sch, target, tile), target)


def tile_product_bf16(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused bfloat16 matrix product with what the target has for it."""
    multiply_bf16(sch, *open_tile(sch, target, tile), target)


def open_tile(
    sch: s_tir.Schedule,
    target: Target,
    tile: Tile,
    options: Sequence[int] = ROW_OPTIONS,
    *,
    parts: int = 0,
    unroll: bool = True,
    share: int = 0,
) -> tuple[Block, Loop]:
    """Split the output into tiles and bring the epilogue into them.

    Args:
        options: what the rows of the tile are chosen from.
        parts: blocks before the product that belong to it; they stay where they are.
        unroll: the rows of the tile.
        share: parts into which the tiles are cut for threads; 0 leaves that to the runtime.

    Returns the product block, still outside, and the loop over tiles that it belongs in.
    """
    nodes = flow(sch)
    first, *rest = nodes[parts:]
    if not first.family or not rest[-1].output or any(node.reduces for node in rest):
        raise UnsuitedError("not a product followed by elementwise work")
    anchor, last = first.block, rest[-1].block
    nb = int(written(sch, anchor).shape[-1])
    staged = inline_single_use(sch, rest[:-1])
    *lead, j = sch.get_loops(last)
    vector = gcd(extent(sch, j), nb)
    at = row_position([extent(sch, loop) for loop in lead])
    around = lead[:at]
    ro, ri = sch.split(lead[at], [None, decide(sch, options, tile.rows)])
    if tile.blocks == 1:
        jo, ji = sch.split(j, [None, nb])
    else:
        jo, *inner = sch.split(j, [None, decide(sch, BLOCK_OPTIONS, tile.blocks), nb])
        ji = sch.fuse(*inner)
    outer = [jo, *around, ro] if tile.rows_first else [*around, ro, jo]
    sch.reorder(*outer, ri, ji)
    inside = outer[-1]
    if target.threads > 1:
        inside = sch.fuse(*outer)
        parts, rest = sch.split(inside, [share, None]) if share else (inside, inside)
        sch.parallel(parts)
        inside = rest
    for node in reversed(staged):
        bring(sch, node.block, ri)
        vectorize_last(sch, node.block, vector)
    if unroll:
        sch.unroll(ri)
    vectorize_last(sch, last, vector)
    return anchor, inside
