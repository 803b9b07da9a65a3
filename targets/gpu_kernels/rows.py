"""The schedule of kernels that work row by row on a GPU: a work group a row.

Work items share a row's elements and add up their parts in local memory. What is computed on the way stays in
registers, or in local memory if several parts of the row need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from tvm import s_tir, tirx

from targets.gpu_kernels.threads import gpu_of, vector_width, vectorize_inner
from targets.kernels.blocks import (
    Block,
    Loop,
    Node,
    UnsuitedError,
    bring,
    decide,
    extent,
    written,
)
from targets.kernels.rows import open_rows
from targets.kernels.space import Apply
from targets.target import Target

ITEM_OPTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Work items that share a row."""


def row_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All numbers of work items worth trying, the best guess first: four elements each, if there are so many."""
    width = max(int(p.ty.shape[-1]) for p in func.params if len(p.ty.shape))
    for items in row_items(width, target):
        yield partial(schedule_rows, items=items, local_bytes=gpu_of(target).local_bytes)


def row_items(width: int, target: Target) -> list[int]:
    """Work items for a row of ``width`` elements, the best guess first."""
    gpu = gpu_of(target)
    most = [n for n in ITEM_OPTIONS if n <= min(width, gpu.max_threads)]
    useful = [n for n in most if n * 16 >= width or n == most[-1]]
    return sorted(useful, key=lambda n: (abs(n * 4 - width) / width, n))[:3]


def schedule_rows(sch: s_tir.Schedule, items: int, local_bytes: int) -> None:
    """Schedule layer norm, softmax or quantisation with what fusion put behind it.

    Args:
        items: one of ITEM_OPTIONS.
        local_bytes: local memory of a work group; a row that needs more of it does not fit.
    """
    kept, row, lead = open_rows(sch)
    sch.bind(row, "blockIdx.x")
    decide(sch, ITEM_OPTIONS, items)
    place_in_group(sch, kept, row, lead, items, local_bytes)


def place_in_group(
    sch: s_tir.Schedule,
    nodes: Sequence[Node],
    row: Loop,
    lead: int,
    items: int,
    local_bytes: int,
) -> None:
    """Bring all blocks under the loop ``row`` over work groups, and share their elements."""
    homes: dict[int, Loop] = {}
    used = 0
    for node in reversed(nodes):
        if node.reduces:
            _, (along,) = bring(sch, node.block, row)
            share(sch, along, items)
            used += 4 * items
        elif node.rank == lead:
            place_single(sch, node, row, items)
            used += 4
        else:
            inside = {id(home): home for home in (homes.get(id(r)) for r, _ in node.readers)}
            home = next(iter(inside.values())) if len(inside) == 1 and not node.output else None
            if home is not None:
                bring(sch, node.block, home)
                vectorize_inner(sch, node.block)
                homes[id(node)] = home
                continue
            if not node.output:
                used += 4 * int(written(sch, node.block).shape[-1])
                bring(sch, node.block, row, scope="shared")
            homes[id(node)] = share_vectors(sch, node.block, items)
    if used > local_bytes:
        raise UnsuitedError(f"a row needs {used} bytes of local memory")


def place_single(sch: s_tir.Schedule, node: Node, row: Loop, items: int) -> None:
    """A value of the whole row: one work item computes it, for all of them.

    In registers of each it could not be: TVM keeps sums over work items in local memory, and would let the value
    take the place of the sum that it is made of, while others still read that.
    """
    if not node.output:
        bring(sch, node.block, row, scope="shared")
    _, item = sch.split(sch.add_unit_loop(node.block), [None, items])
    sch.bind(item, "threadIdx.x")


def share(sch: s_tir.Schedule, loop: Loop, items: int) -> Loop:
    """Share the steps of a reduction among work items: neighbours take neighbours. Returns their loop."""
    _, item = sch.split(loop, [None, items])
    sch.bind(item, "threadIdx.x")
    return item


def share_vectors(sch: s_tir.Schedule, block: Block, items: int) -> Loop:
    """Share the elements of a row among work items, in vectors where each gets whole ones."""
    loop = sch.get_loops(block)[-1]
    total = extent(sch, loop)
    width = vector_width(total) if total >= items * 4 else 1
    if width == 1:
        return share(sch, loop, items)
    steps, lanes = sch.split(loop, [None, width])
    item = share(sch, steps, items)
    sch.vectorize(lanes)
    return item
