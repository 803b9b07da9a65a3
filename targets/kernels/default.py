"""A schedule for any PrimFunc: nothing ever runs as the frontend wrote it.

Elementwise work is inlined into what reads it, the innermost loop is vectorised where memory is
walked contiguously, the outer loops are shared out to threads. What cannot be had is left out, step
by step, down to the function as it was.
"""

from __future__ import annotations

import logging
from math import gcd, prod

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from targets.kernels.blocks import Block, Loop, Node, extent, flow, new_schedule, reason, uses
from targets.kernels.rows import partial_reduce, place_partial
from targets.target import Target

PARALLEL_WORK = 1 << 14
"""Iterations of a block below which handing it to several threads costs more than it saves."""

_LOG = logging.getLogger(__name__)


def default_schedule(func: tirx.PrimFunc, target: Target) -> s_tir.Schedule:
    """A schedule that is always valid and changes no result but by the order of sums.

    A step of scheduling either succeeds or changes nothing, so after one that fails the rest of its
    block is left as it is, and the other blocks are scheduled all the same.
    """
    sch = new_schedule(func)
    try:
        nodes = flow(sch)
    except (s_tir.ScheduleError, tvm.error.InternalError, IndexError, ValueError) as error:
        _LOG.info("a function is left as it is: %s", reason(error))  # no blocks: extern code
        return sch
    inline_elementwise(sch, nodes)
    for node in flow(sch):
        try:
            schedule_block(sch, node, target)
        except s_tir.ScheduleError as error:
            _LOG.info("a block is left as it is: %s", reason(error))
    return sch


def inline_elementwise(sch: s_tir.Schedule, nodes: list[Node]) -> None:
    """Inline each block that is read once per element it makes, or that only moves data."""
    for node in nodes:
        if node.reduces or node.output or not node.readers:
            continue
        made = iterations(sch, node.block)
        once = node.loads == 1 and all(iterations(sch, r.block) <= made for r, _ in node.readers)
        if once or only_moves(sch, node.block):
            try:
                sch.compute_inline(node.block)
            except s_tir.ScheduleError:
                continue


def iterations(sch: s_tir.Schedule, block: Block) -> int:
    """How often the body of ``block`` runs."""
    return prod(extent(sch, loop) for loop in sch.get_loops(block))


def only_moves(sch: s_tir.Schedule, block: Block) -> bool:
    """True if the block computes nothing but where to read."""
    body = sch.get(block).body
    value = body.value if isinstance(body, tirx.BufferStore) else None
    return isinstance(value, tvm.ir.TensorLoad | tirx.FloatImm | tirx.IntImm)


def schedule_block(sch: s_tir.Schedule, node: Node, target: Target) -> None:
    """Vectorise and share out one block."""
    statement = sch.get(node.block)
    loops = list(sch.get_loops(node.block))
    axes = list(statement.iter_vars)
    if len(axes) != len(loops) or not loops:
        return
    spatial = [lo for lo, ax in zip(loops, axes, strict=True) if ax.iter_type == _SPATIAL]
    reduction = [lo for lo, ax in zip(loops, axes, strict=True) if ax.iter_type == _REDUCTION]
    if len(spatial) + len(reduction) != len(loops):
        return
    work = iterations(sch, node.block)
    many = target.threads > 1 and work >= PARALLEL_WORK
    if not reduction:
        schedule_elementwise(sch, spatial, axes[-1].var, statement, target, many)
    elif walks_rows(statement, axes):
        schedule_row_reduction(sch, node.block, spatial, reduction, target, many)
    else:
        schedule_column_reduction(sch, node.block, spatial, reduction, target, many)


_SPATIAL, _REDUCTION = tirx.IterVar.DataPar, tirx.IterVar.CommReduce


def vector_width(total: int, target: Target) -> int:
    """Elements of a loop of ``total`` steps to treat at once: two registers, or less that divides it."""
    return gcd(total, 2 * target.lanes)


def schedule_elementwise(
    sch: s_tir.Schedule,
    spatial: list[Loop],
    last: tirx.Var,
    statement: s_tir.SBlock,
    target: Target,
    many: bool,
) -> None:
    """A block without reduction: vector innermost, threads outermost."""
    *outer, inner = spatial
    width = vector_width(extent(sch, inner), target)
    region = statement.writes[0].region
    if width > 1 and len(region) and uses(region[-1].min, last):
        rest, lanes = sch.split(inner, [None, width])
        sch.vectorize(lanes)
        outer = [*outer, rest]
    if outer and many:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])


def schedule_row_reduction(
    sch: s_tir.Schedule,
    block: Block,
    spatial: list[Loop],
    reduction: list[Loop],
    target: Target,
    many: bool,
) -> None:
    """A reduction along contiguous memory: whole vectors first, their lanes last."""
    if not spatial:
        return
    width = gcd(extent(sch, reduction[-1]), 4 * target.lanes)
    rows = sch.fuse(*spatial) if len(spatial) > 1 else spatial[0]
    if many:
        sch.parallel(rows)
    if len(reduction) == 1 and width >= target.lanes:
        *partial, last = partial_reduce(sch, block, width, target)
        rows, steps = sch.get_loops(last)
        place_partial(sch, partial, rows, steps, target)


def schedule_column_reduction(
    sch: s_tir.Schedule,
    block: Block,
    spatial: list[Loop],
    reduction: list[Loop],
    target: Target,
    many: bool,
) -> None:
    """A reduction across contiguous memory: a vector of results at once."""
    if not spatial:
        return
    *outer, inner = spatial
    rest, lanes = sch.split(inner, [None, vector_width(extent(sch, inner), target)])
    sch.reorder(*outer, rest, *reduction, lanes)
    if many:
        sch.parallel(sch.fuse(*outer, rest) if outer else rest)
    if extent(sch, lanes) > 1:
        sch.vectorize(lanes)
    init = sch.decompose_reduction(block, reduction[0])
    if extent(sch, lanes) > 1:
        sch.vectorize(sch.get_loops(init)[-1])


def walks_rows(statement: s_tir.SBlock, axes: list[tirx.IterVar]) -> bool:
    """True if the last reduction axis walks the last dimension of some input and no output axis does."""
    reduction = [a.var for a in axes if a.iter_type == _REDUCTION][-1]
    spatial = [a.var for a in axes if a.iter_type == _SPATIAL]
    along = False
    across = False

    def visit(load: tvm.ir.TensorLoad) -> None:
        nonlocal along, across
        if load.source.same_as(statement.writes[0].source) or not len(load.indices):
            return
        last = load.indices[-1]
        along = along or uses(last, reduction)
        across = across or any(uses(last, v) for v in spatial)

    tvm_ffi.structural_walk(statement.body, [(tvm.ir.TensorLoad, visit)], order="post")
    return along and not across
