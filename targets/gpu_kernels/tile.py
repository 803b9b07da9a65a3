"""The loops of a product within a work item: sums in registers, operands loaded as vectors ahead of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.sym import detect_linear_equation

from targets.gpu_kernels.threads import vector_width, vectorize_inner
from targets.kernels.blocks import (
    Block,
    Loop,
    UnsuitedError,
    decide,
    extent,
    loops_under,
    uses,
    written,
)
from targets.kernels.operands import output_axis

STEP_OPTIONS = (1, 2, 4)
"""Inputs that are loaded at once."""

MOST_UNROLLED = 16

STAGED_LANES = 4
"""Inputs that a work item copies to local memory at once."""


@dataclass(frozen=True)
class Staging:
    """A work group copies the inputs of its rows to local memory, a stretch at a time, before it computes with them.

    Attributes:
        inputs: of a stretch.
        across, down: work items of the group.
    """

    inputs: int
    across: int
    down: int


def multiply(
    sch: s_tir.Schedule,
    block: Block,
    inside: Loop,
    tile: Sequence[Loop],
    reduction: Sequence[Loop],
    step: int,
    staging: Staging | None = None,
) -> None:
    """Order the loops of a product: inputs outside, the tile of rows and outputs inside.

    Args:
        block: the product, brought under the loop ``inside``.
        tile: its loops over rows, then those over outputs.
        reduction: its loops over inputs; the last of several may be that of a group that lies together.
        step: inputs to load at once, if they are so many.
        staging: how inputs are staged; every group must be a whole one then, or some items miss a barrier.
    """
    row, *columns = tile
    grouped = reads_groups(sch, block)
    *outer, k = reduction[:-1] if grouped else reduction
    if staging is not None:
        stretch, k = sch.split(k, [None, staging.inputs])
        outer = [*outer, stretch]
    size = decide(sch, STEP_OPTIONS, step)
    ko, ki = sch.split(k, [None, size if extent(sch, k) % step == 0 else 1])
    group = list(reduction[-1:]) if grouped else []
    sch.reorder(*outer, ko, row, ki, *columns, *group)
    if staging is not None:
        stage(sch, block, outer[-1], row, staging)
    read_ahead(sch, block, row, ko)
    for loop in (row, ki, *columns[:-1], *group):
        sch.unroll(loop)
    if grouped:
        sch.unroll(columns[-1])
    else:
        vectorize_loop(sch, columns[-1])
    clear(sch, block, inside, (outer or [ko])[0])


def stage(sch: s_tir.Schedule, block: Block, stretch: Loop, row: Loop, staging: Staging) -> None:
    """Copy what the rows of a work group read in one ``stretch`` to local memory, all its items together."""
    positions = [p for p, where in contiguous_reads(sch, block, row, stretch) if where is row]
    if len(positions) != 1:
        raise UnsuitedError("inputs that do not lie in the order of the sum")
    copy = sch.cache_read(block, positions[0], "shared", consumer_blocks=[block])
    sch.compute_at(copy, stretch, preserve_unit_loops=True)
    whole = sch.fuse(*loops_under(sch, copy, stretch))
    _, down, across, lanes = sch.split(whole, [None, staging.down, staging.across, STAGED_LANES])
    sch.bind(down, "threadIdx.y")
    sch.bind(across, "threadIdx.x")
    sch.vectorize(lanes)


def reads_groups(sch: s_tir.Schedule, block: Block) -> bool:
    """Whether nothing is read in the order of outputs, but groups of inputs that lie together: codes, keys."""
    statement = sch.get(block)
    output = output_axis(statement)
    return not any(
        last.same_as(output) or coefficient(last, output) == 1
        for _, last in last_indices(statement, written(sch, block))
    )


def vectorize_loop(sch: s_tir.Schedule, loop: Loop, most: int = 4) -> None:
    """Vectorise a loop of outputs, unroll what is left of it."""
    width = vector_width(extent(sch, loop), most)
    if width == 1:
        sch.unroll(loop)
        return
    outer, lanes = sch.split(loop, [None, width])
    sch.unroll(outer)
    sch.vectorize(lanes)


def clear(sch: s_tir.Schedule, block: Block, inside: Loop, reduction: Loop) -> None:
    """Set the sums of a tile to zero before the loop ``reduction``."""
    *loops, last = loops_under(sch, sch.decompose_reduction(block, reduction), inside)
    for loop in loops:
        if is_serial(sch, loop) and extent(sch, loop) <= MOST_UNROLLED:
            sch.unroll(loop)
    if is_serial(sch, last):
        vectorize_loop(sch, last)


def is_serial(sch: s_tir.Schedule, loop: Loop) -> bool:
    """Whether nothing was decided about a loop."""
    return bool(sch.get(loop).kind == tirx.ForKind.SERIAL)


def read_ahead(sch: s_tir.Schedule, block: Block, row: Loop, step: Loop) -> None:
    """Load the weights of one step, and the inputs of one row of it, as vectors into registers."""
    for position, where in contiguous_reads(sch, block, row, step):
        if where is row and not constant(sch.copy(), block, position, where):
            continue
        copy = copy_at(sch, block, position, where)
        for loop in loops_under(sch, copy, where)[:-1]:
            sch.unroll(loop)
        vectorize_inner(sch, copy)


def copy_at(sch: s_tir.Schedule, block: Block, position: int, where: Loop) -> Block:
    """Copy what a block reads into registers, in each step of the loop ``where``."""
    copy = sch.cache_read(block, position, "local", consumer_blocks=[block])
    sch.compute_at(copy, where, preserve_unit_loops=True)
    return copy


def constant(trial: s_tir.Schedule, block: Block, position: int, where: Loop) -> bool:
    """Whether TVM sees that such a copy has a fixed size; in strips of images it does not always."""
    loops = loops_under(trial, copy_at(trial, block, position, where), where)
    return all(isinstance(trial.get(loop).extent, tirx.IntImm) for loop in loops)


def contiguous_reads(
    sch: s_tir.Schedule, block: Block, row: Loop, step: Loop
) -> list[tuple[int, Loop]]:
    """(which read, the loop to load it in): weights by output, inputs in the order of the sum."""
    statement = sch.get(block)
    own = written(sch, block)
    output = output_axis(statement)
    inputs = [a.var for a in statement.iter_vars if a.iter_type == tirx.IterVar.CommReduce]
    found = []
    for position, last in last_indices(statement, own):
        if last.same_as(output):
            found.append((position, step))
        elif coefficient(last, inputs[-1]) == 1:
            found.append((position, row if not uses(last, output) else step))
    return found


def last_indices(statement: s_tir.SBlock, own: tirx.Buffer) -> list[tuple[int, tirx.Expr]]:
    """(which read of a block, where it reads along the last dimension).

    Left out are its own sums, and what it reads at more than one place: that is no single vector.
    """
    found: dict[int, list[tirx.Expr]] = {}

    def visit(load: tvm.ir.TensorLoad) -> None:
        for position, read in enumerate(statement.reads):
            if load.source.same_as(read.source) and not load.source.same_as(own):
                found.setdefault(position, []).append(load.indices[-1])

    tvm_ffi.structural_walk(statement.body, [(tvm.ir.TensorLoad, visit)], order="post")
    return [
        (position, found[position][0]) for position in sorted(found) if len(found[position]) == 1
    ]


def coefficient(index: tirx.Expr, var: tirx.Var) -> int:
    """By how much an index moves with ``var``; 0 if it does not, or not evenly."""
    if any_load(index):
        return 0
    terms = detect_linear_equation(index, [var])
    return int(terms[0]) if terms and isinstance(terms[0], tirx.IntImm) else 0


def any_load(index: tirx.Expr) -> bool:
    """Whether an index comes out of a list."""
    found = False

    def visit(load: tvm.ir.TensorLoad) -> None:
        nonlocal found
        found = True

    tvm_ffi.structural_walk(index, [(tvm.ir.TensorLoad, visit)], order="post")
    return found
