"""The tuning space of all matrix products: a register tile over a packed block of outputs.

The tile of ``rows`` x ``nb`` accumulators stays in vector registers while the reduction runs; the
elementwise blocks that fusion put behind the product run on the tile before it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from targets.kernels.intrin import dot_name, madd_name
from targets.kernels.intrin_bf16 import IMPORT, dot2_code, dot2_name
from targets.kernels.intrin_lanes import GROUPS, dot_lanes_name, inputs_of, lanes_name
from targets.kernels.intrin_load import load_name
from targets.kernels.linear import ROW_SLACK, row_position
from targets.kernels.offsets import OFFSETS, ROWS
from targets.kernels.operands import hide_indices, index_reads, operand_bytes, weights_read
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


def multiply_in_tile(
    sch: s_tir.Schedule,
    anchor: Block,
    inside: Loop,
    target: Target,
    placed: Callable[[], None] = lambda: None,
) -> None:
    """``multiply_int8`` of float32."""
    (*_, r, o, j), reduction = bring(sch, anchor, inside)
    if takes_vectors(sch, anchor, target):
        multiply_lanes(sch, anchor, (r, o, j), reduction, target, placed)
        return
    sch.reorder(o, *reduction, r, j)
    sch.unroll(r)
    sch.vectorize(j)
    clear_accumulators(sch, anchor, reduction[0])
    load_ahead(sch, anchor, reduction[-1])
    placed()


def lanes_registers(outputs: int, target: Target, int8: bool = False) -> int:
    """Registers for the sums of a product by whole vectors of inputs.

    The weights of all inputs of a vector are in as many registers as there are outputs. As many more are left
    free: compilers load ahead, and for cores that do not reorder instructions they do so over several steps.
    """
    taken = 4 if int8 and target.dot == "sdot" and target.in_order else 0  # what `offsets` needs
    return target.registers - 2 * outputs - taken


def takes_vectors(sch: s_tir.Schedule, anchor: Block, target: Target) -> bool:
    """True if a product is done by whole vectors of inputs, each of their numbers or groups by weights.

    Not where inputs are no whole vectors, or lie anywhere, as those of a sparse product, nor where fewer outputs
    than a block are computed, because the epilogue reads no more.
    """
    buffer = written(sch, anchor)
    if index_reads(sch, anchor) or vectors_name(target, buffer) is None:
        return False
    loops = sch.get_loops(anchor)
    kinds = [v.iter_type for v in sch.get(anchor).iter_vars]
    outputs = loops[-1 - kinds.count(tirx.IterVar.CommReduce)]
    if extent(sch, outputs) < int(buffer.shape[-1]):
        return False
    if buffer.dtype == "int32":
        return extent(sch, loops[-2]) % GROUPS == 0
    return extent(sch, loops[-1]) % inputs_of(target, str(buffer.dtype)) == 0


def vectors_name(target: Target, sums: tirx.Buffer) -> str | None:
    """The intrinsic that multiplies a vector of inputs into ``sums``; None if there is none."""
    outputs = int(sums.shape[-1])
    if sums.dtype == "int32":
        return dot_lanes_name(target, outputs)
    return lanes_name(target, str(sums.dtype), outputs)


def multiply_lanes(
    sch: s_tir.Schedule,
    anchor: Block,
    tile: tuple[Loop, Loop, Loop],
    reduction: Sequence[Loop],
    target: Target,
    placed: Callable[[], None] = lambda: None,
) -> None:
    """The product of a tile (row, block, output) by whole vectors of inputs; ``placed`` as in `multiply_int8`."""
    r, o, j = tile
    buffer = written(sch, anchor)
    name = vectors_name(target, buffer)
    *outer, k = reduction
    if buffer.dtype == "int32":
        *outer, g = outer
        outside, inner = sch.split(g, [None, GROUPS])
        inside = [inner, j, k]
    else:
        outside, inner = sch.split(k, [None, inputs_of(target, str(buffer.dtype))])
        inside = [inner, j]
    sch.reorder(*outer, outside, o, r, *inside)
    first = [*outer, outside][0]
    *_, blocks, rows, columns = sch.get_loops(sch.decompose_reduction(anchor, first))
    for loop in (o, r, blocks, rows):
        sch.unroll(loop)
    sch.vectorize(columns)
    if target.dot == "sdot" and buffer.dtype == "int32":
        sch.annotate(first, OFFSETS, int(buffer.shape[-1]))
        sch.annotate(r, ROWS, 1)
    placed()
    sch.tensorize(inner, name)


def load_ahead(sch: s_tir.Schedule, anchor: Block, step: Loop) -> None:
    """Load the weights of one ``step`` of the product into registers, and prefetch later ones."""
    # outputs that the epilogue never reads are not computed: fewer than a block may be left
    load = load_name(extent(sch, sch.get_loops(anchor)[-1]))
    position = weights_read(sch, anchor)
    if load and position is not None:
        weights = sch.cache_read(anchor, position, "local")
        sch.compute_at(weights, step, preserve_unit_loops=True)
        sch.tensorize(sch.get_loops(weights)[-1], load)


def tile_product_int8(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused int8 matrix product, dense or sparse, with what the target has for it."""
    multiply_int8(sch, *open_tile(sch, target, tile), target)


def multiply_int8(
    sch: s_tir.Schedule,
    anchor: Block,
    inside: Loop,
    target: Target,
    placed: Callable[[], None] = lambda: None,
) -> None:
    """Bring an int8 product under the loop ``inside`` over tiles, its accumulators into registers.

    ``placed`` is called when it is there, before it becomes instructions: TVM 0.27 places no producer
    of a block that has been tensorised.
    """
    nb = int(written(sch, anchor).shape[-1])
    dot, madd = dot_name(target), madd_name(target)
    if takes_vectors(sch, anchor, target):
        (*_, r, o, j), reduction = bring(sch, anchor, inside)
        multiply_lanes(sch, anchor, (r, o, j), reduction, target, placed)
    elif dot is not None and nb % target.lanes == 0:
        dot_by_group(sch, anchor, inside, target, dot, placed)
    elif madd is not None and nb % (target.lanes // 2) == 0:
        madd_by_two(sch, anchor, inside, target.lanes // 2, madd, placed)
    else:
        group_by_group(sch, anchor, inside)
        placed()


def tile_product_bf16(sch: s_tir.Schedule, target: Target, tile: Tile) -> None:
    """Schedule a fused bfloat16 matrix product with what the target has for it."""
    multiply_bf16(sch, *open_tile(sch, target, tile), target)


def multiply_bf16(
    sch: s_tir.Schedule,
    anchor: Block,
    inside: Loop,
    target: Target,
    placed: Callable[[], None] = lambda: None,
) -> None:
    """``multiply_int8`` of bfloat16."""
    nb = int(written(sch, anchor).shape[-1])
    dot = dot2_name(target)
    if dot is not None and nb % target.lanes == 0:
        groups = dot_by_group(sch, anchor, inside, target, dot, placed)
        if (code := dot2_code(target)) is not None:
            sch.annotate(groups, IMPORT, code)
    else:
        group_by_group(sch, anchor, inside)
        placed()


def group_by_group(sch: s_tir.Schedule, anchor: Block, inside: Loop) -> None:
    """The product of groups of inputs by ordinary multiplication."""
    (*_, r, o, j), (*groups, i) = bring(sch, anchor, inside)
    sch.reorder(o, *groups, r, i, j)
    sch.unroll(r)
    sch.unroll(i)
    sch.vectorize(j)
    clear_accumulators(sch, anchor, groups[0])


def dot_by_group(
    sch: s_tir.Schedule,
    anchor: Block,
    inside: Loop,
    target: Target,
    intrinsic: str,
    placed: Callable[[], None] = lambda: None,
) -> Loop:
    """The product by an instruction that adds those of a group to each accumulator of a vector.

    Returns the loop over groups.
    """
    (*_, r, o, j), (*groups, i) = bring(sch, anchor, inside)
    jo, ji = sch.split(j, [None, target.lanes])
    sch.reorder(o, *groups, r, jo, ji, i)
    sch.unroll(r)
    sch.unroll(jo)
    *_, rows, outer, inner = sch.get_loops(sch.decompose_reduction(anchor, groups[0]))
    sch.unroll(rows)
    sch.vectorize(sch.fuse(outer, inner))
    if target.dot == "sdot" and written(sch, anchor).dtype == "int32":
        sch.annotate(groups[0], OFFSETS, int(written(sch, anchor).shape[-1]))
        sch.annotate(r, ROWS, 1)
    placed()
    hide_indices(sch, anchor)
    sch.tensorize(ji, intrinsic)
    return groups[-1]


def madd_by_two(
    sch: s_tir.Schedule,
    anchor: Block,
    inside: Loop,
    outputs: int,
    intrinsic: str,
    placed: Callable[[], None] = lambda: None,
) -> None:
    """The product by 16-bit multiplication: the even and the odd pair of a group of four inputs have
    accumulators of their own, ``outputs`` x 2 in a register, and are added at the end."""
    i = sch.get_loops(anchor)[-1]
    pair, _ = sch.split(i, [2, 2])
    partial = sch.rfactor(pair, len(written(sch, anchor).shape))
    (*_, r, o, j), (pair,) = bring(sch, anchor, inside)
    sch.reorder(o, r, pair, j)
    sch.unroll(r)
    sch.unroll(pair)
    sch.vectorize(j)
    sch.vectorize(sch.get_loops(sch.decompose_reduction(anchor, pair))[-1])
    (pair, *_, r, o, j), (*groups, two) = bring(sch, partial, inside)
    jo, ji = sch.split(j, [None, outputs])
    sch.reorder(o, *groups, r, jo, ji, pair, two)
    sch.unroll(r)
    sch.unroll(jo)
    *_, rows, outer, inner, pair = sch.get_loops(sch.decompose_reduction(partial, groups[0]))
    sch.unroll(rows)
    sch.unroll(outer)
    sch.vectorize(sch.fuse(inner, pair))
    placed()
    hide_indices(sch, partial)
    sch.tensorize(ji, intrinsic)


def clear_accumulators(sch: s_tir.Schedule, anchor: Block, reduction: Loop) -> None:
    """Set the tile of (row, output) to zero before the loop ``reduction``."""
    *_, rows, columns = sch.get_loops(sch.decompose_reduction(anchor, reduction))
    sch.unroll(rows)
    sch.vectorize(columns)


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
