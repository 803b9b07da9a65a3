"""The schedule of kernels that work row by row: layer norm, softmax, quantisation.

A row is read from memory once; its reductions use whole vectors and end in a tree; everything that
is computed on the way stays in registers or in a buffer of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod

from tvm import s_tir, tirx

from targets.kernels.blocks import (
    Block,
    Loop,
    Node,
    UnsuitedError,
    anchor_in,
    bring,
    decide,
    extent,
    flow,
    inline_single_use,
    vectorize_own,
)
from targets.target import Target

CHUNKS = (1, 2, 4)
"""Vector registers that elementwise work on a row may treat at once."""

ACCUMULATORS = 4
"""Vector registers that a reduction over a row adds into, so that it never waits for the last sum."""


WORTH_SHARING = 1 << 18
"""Elements from which threads are expected to gain: on two cores of Zen 4, quantising 128 x 1536 numbers
took 21 us on one thread and 32 us on two, most of it for waking the other one."""


def sharing(func: tirx.PrimFunc, target: Target) -> list[bool]:
    """Whether threads share the rows, the better guess first: both ways if there are threads."""
    if target.threads == 1:
        return [False]
    size = max(prod(int(d) for d in p.shape) for p in func.params)
    return [True, False] if size >= WORTH_SHARING else [False, True]


def schedule_rows(sch: s_tir.Schedule, target: Target, chunk: int, shared: bool) -> None:
    """Schedule layer norm, softmax or quantisation with what fusion put behind it.

    Args:
        chunk: one of CHUNKS.
        shared: threads share the rows.
    """
    kept, row, lead = open_rows(sch)
    if shared:
        sch.parallel(row)
    place_in_row(sch, kept, row, lead, target, chunk)


def open_rows(sch: s_tir.Schedule) -> tuple[list[Node], Loop, int]:
    """(the blocks of a kernel over rows, its loop over rows, how many loops of a block that is).

    Blocks that are read once are inlined, and all results share the loop.
    """
    nodes = flow(sch)
    lead = nodes[anchor_in(nodes)].rank - 1
    inline_single_use(sch, nodes)
    kept = flow(sch)
    wide = [n for n in kept if n.output and n.rank == lead + 1]
    if lead < 1 or not wide or any(n.rank > lead + 1 for n in kept):
        raise UnsuitedError("not a kernel over rows with a wide result")
    loops = [row_loop(sch, n.block, lead) for n in kept if n.output]
    return kept, sch.merge(*loops) if len(loops) > 1 else loops[0], lead


def place_in_row(
    sch: s_tir.Schedule, nodes: Sequence[Node], row: Loop, lead: int, target: Target, chunk: int
) -> None:
    """Bring all blocks under the loop ``row`` and vectorise them.

    A block with one value a column is computed chunk by chunk within its only reader if it can be,
    in registers; if several read it, or a reduction does, it gets a buffer of one row.
    """
    chunks: dict[int, Loop] = {}
    for node in reversed(nodes):
        if node.reduces:
            lanes = row_lanes(sch, node.block, target)
            place_reduction(sch, partial_reduce(sch, node.block, lanes, target), row, target)
            continue
        homes = [chunks.get(id(reader)) for reader, _ in node.readers]
        inside = node.rank > lead and not node.output and len({id(h) for h in homes}) == 1
        shared = homes[0] if inside else None
        if not node.output:
            bring(sch, node.block, row if shared is None else shared)
        if node.rank > lead:
            if shared is None:
                chunks[id(node)] = vectorize_chunks(sch, node.block, chunk, target)
            else:
                chunks[id(node)] = shared
                vectorize_own(sch, node.block)


def vectorize_chunks(sch: s_tir.Schedule, block: Block, chunk: int, target: Target) -> Loop:
    """Vectorise the last loop of ``block`` by ``chunk`` registers; return the loop over the chunks."""
    loop = sch.get_loops(block)[-1]
    decide(sch, CHUNKS, chunk)
    outer, lanes = sch.split(loop, [None, gcd(extent(sch, loop), chunk * target.lanes)])
    if extent(sch, lanes) > 1:
        sch.vectorize(lanes)
    return outer


def row_loop(sch: s_tir.Schedule, block: Block, lead: int) -> Loop:
    """The first ``lead`` loops around ``block`` as one."""
    loops = sch.get_loops(block)[:lead]
    return sch.fuse(*loops) if lead > 1 else loops[0]


def row_lanes(sch: s_tir.Schedule, block: Block, target: Target) -> int:
    """Elements of a row that are treated at once: they divide the last loop of ``block``."""
    return gcd(extent(sch, sch.get_loops(block)[-1]), ACCUMULATORS * target.lanes)


def partial_reduce(sch: s_tir.Schedule, block: Block, lanes: int, target: Target) -> list[Block]:
    """Reduce the last loop of ``block`` by ``lanes`` partial results, and those to one vector.

    Returns the blocks made, in order; the last is ``block`` itself, over the lanes of one vector.
    """
    position = len(sch.get_loops(block)) - 1
    made: list[Block] = []
    for width in (lanes, target.lanes):
        if 1 < width <= lanes and width < extent(sch, sch.get_loops(block)[-1]):
            _, inner = sch.split(sch.get_loops(block)[-1], [None, width])
            made.append(sch.rfactor(inner, position))
    return [*made, block]


def place_reduction(sch: s_tir.Schedule, blocks: list[Block], loop: Loop, target: Target) -> None:
    """Bring the blocks that ``partial_reduce`` made under ``loop``, and vectorise all but the last."""
    *partial, last = blocks
    (*_, row), (steps,) = bring(sch, last, loop)
    sch.reorder(row, steps)
    place_partial(sch, partial, row, steps, target)


def place_partial(
    sch: s_tir.Schedule, partial: list[Block], row: Loop, steps: Loop, target: Target
) -> None:
    """Bring partial results under ``row``, before the loop ``steps`` that reduces the last of them.

    Every vector is loaded and stored whole: LLVM 22 takes half a vector out of another through
    general registers. Hence no tree within a vector, but one scalar step for each of its lanes.
    """
    if partial:
        sch.unroll(steps)
    for block in reversed(partial):
        (lanes, *single), (steps,) = bring(sch, block, row)
        part, lane = sch.split(lanes, [None, min(extent(sch, lanes), target.lanes)])
        sch.reorder(*single, steps, part, lane)
        sch.unroll(part)
        sch.vectorize(lane)
        if extent(sch, steps) <= ACCUMULATORS:
            sch.unroll(steps)
        *_, part, lane = sch.get_loops(sch.decompose_reduction(block, steps))
        sch.unroll(part)
        sch.vectorize(lane)
