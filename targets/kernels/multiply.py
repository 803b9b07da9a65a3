"""How a product is multiplied within its register tile: float32, int8 and bfloat16, with what a target has for it."""

from __future__ import annotations

from collections.abc import Callable

from tvm import s_tir

from targets.kernels.blocks import Block, Loop, bring, extent, written
from targets.kernels.intrin import dot_name, madd_name
from targets.kernels.intrin_bf16 import IMPORT, dot2_code, dot2_name
from targets.kernels.intrin_load import load_name
from targets.kernels.multiply_lanes import multiply_lanes, takes_vectors
from targets.kernels.offsets import OFFSETS, ROWS
from targets.kernels.operands import hide_indices, weights_read
from targets.target import Target


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


def load_ahead(sch: s_tir.Schedule, anchor: Block, step: Loop) -> None:
    """Load the weights of one ``step`` of the product into registers, and prefetch later ones."""
    # outputs that the epilogue never reads are not computed: fewer than a block may be left
    load = load_name(extent(sch, sch.get_loops(anchor)[-1]))
    position = weights_read(sch, anchor)
    if load and position is not None:
        weights = sch.cache_read(anchor, position, "local")
        sch.compute_at(weights, step, preserve_unit_loops=True)
        sch.tensorize(sch.get_loops(weights)[-1], load)


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
