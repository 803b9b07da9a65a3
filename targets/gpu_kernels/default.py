"""A schedule for any PrimFunc on a GPU: every loop nest becomes a kernel, one work item an element or a vector.

Elementwise work is inlined, or done in registers by the work items of what reads it; a reduction is done by the
work item that needs its result. What has another form runs on a single work item: slow, and measured as that.
"""

from __future__ import annotations

import logging
from math import prod

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from targets.gpu_kernels.bound import is_bound
from targets.gpu_kernels.threads import (
    bind_flat,
    group_sizes,
    has_truth_values,
    vector_width,
    vectorize_inner,
)
from targets.kernels.blocks import (
    Block,
    Loop,
    Node,
    bring,
    extent,
    flow,
    new_schedule,
    reason,
    uses,
)
from targets.kernels.default import inline_elementwise
from targets.target import Target

_LOG = logging.getLogger(__name__)

_SPATIAL, _REDUCTION = tirx.IterVar.DataPar, tirx.IterVar.CommReduce


def default_schedule(func: tirx.PrimFunc, target: Target) -> s_tir.Schedule:
    """A schedule that is always valid on a GPU and changes no result but by the order of sums."""
    if is_bound(func):
        return new_schedule(func)
    sch = new_schedule(func)
    try:
        if not (nodes := flow(sch)):
            raise ValueError("no blocks: its loops were written by hand")
        inline_elementwise(sch, nodes)
        bind_nests(sch, flow(sch), target)
        if not is_bound(sch.mod["main"]):
            raise ValueError("loops outside of all blocks")
    except (s_tir.ScheduleError, tvm.error.InternalError, IndexError, ValueError) as error:
        _LOG.info("a function runs on one work item: %s", reason(error))
        return new_schedule(single_item(func))
    return sch


def bind_nests(
    sch: s_tir.Schedule, nodes: list[Node], target: Target, items: int | None = None
) -> None:
    """Make kernels of blocks that stand alone, from the last to the first.

    A block goes into the work items of its readers if each of them needs but what it computes itself.
    """
    size = items or group_sizes(target)[0]
    homes: dict[int, Loop] = {}
    for node in reversed(nodes):
        home = home_of(sch, node, homes)
        if home is None:
            homes[id(node)] = bind_nest(sch, node, size)
            continue
        bring(sch, node.block, home)
        for other in range(1, len(sch.get(node.block).writes)):  # of a reduction of pairs (argmax)
            sch.set_scope(node.block, other, "local")
        homes[id(node)] = home
        if not node.reduces:
            vectorize_inner(sch, node.block)


def home_of(sch: s_tir.Schedule, node: Node, homes: dict[int, Loop]) -> Loop | None:
    """The loop over work items that ``node`` can be computed in; None if it needs a kernel of its own."""
    readers = [reader for reader, _ in node.readers]
    if node.output or not readers or any(r.reduces or id(r) not in homes for r in readers):
        return None
    first = homes[id(readers[0])]
    if any(not sch.get_sref(homes[id(r)]).same_as(sch.get_sref(first)) for r in readers):
        return None
    made = elements(sch, node.block)
    if any(elements(sch, r.block) != made or r.rank != spatial_rank(sch, node) for r in readers):
        return None
    return first


def elements(sch: s_tir.Schedule, block: Block) -> int:
    """Values that a block computes: those of its domain, wherever it is computed."""
    return prod(int(a.dom.extent) for a in sch.get(block).iter_vars if a.iter_type != _REDUCTION)


def spatial_rank(sch: s_tir.Schedule, node: Node) -> int:
    """Loops of a block that are no reduction."""
    return sum(a.iter_type != _REDUCTION for a in sch.get(node.block).iter_vars)


def bind_nest(sch: s_tir.Schedule, node: Node, items: int) -> Loop:
    """A kernel of one block; returns the loop over its work items."""
    loops, axes = list(sch.get_loops(node.block)), list(sch.get(node.block).iter_vars)
    if len(loops) != len(axes):
        raise ValueError("a block whose loops are not its axes")
    if any(a.iter_type not in (_SPATIAL, _REDUCTION) for a in axes):
        raise ValueError("a block with axes that are neither spatial nor of reduction")
    spatial = [lo for lo, a in zip(loops, axes, strict=True) if a.iter_type == _SPATIAL]
    reduction = [lo for lo, a in zip(loops, axes, strict=True) if a.iter_type == _REDUCTION]
    if not spatial:
        return bind_flat(sch, [sch.add_unit_loop(loops[0] if loops else node.block)], items)
    sch.reorder(*spatial, *reduction)
    width = 1
    if (
        not reduction
        and not has_truth_values(sch, node.block)
        and walks_along(sch, node.block, axes[-1].var)
    ):
        width = vector_width(extent(sch, spatial[-1]))
    if width > 1:
        rest, lanes = sch.split(spatial.pop(), [None, width])
        sch.vectorize(lanes)
        spatial.append(rest)
    home = bind_flat(sch, spatial, items)
    if (
        reduction and len(sch.get(node.block).writes) == 1
    ):  # the sum stays in a register while it grows
        sch.reverse_compute_at(sch.cache_write(node.block, 0, "local"), home)
    return home


def walks_along(sch: s_tir.Schedule, block: Block, last: tirx.Var) -> bool:
    """Whether the last axis of a block walks the last dimension of what it writes."""
    region = sch.get(block).writes[0].region
    return len(region) > 0 and uses(region[-1].min, last)


def single_item(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """``func`` on one work item: its loops one after the other, as they are written."""

    def serial(node: tirx.For) -> tirx.For:
        return tirx.For(node.loop_var, node.min, node.extent, tirx.ForKind.SERIAL, node.body)

    root = tvm_ffi.structural_map(func.body, [(tirx.For, serial)])
    block = root.block
    # TVM takes memory that one kernel alone uses for memory within that kernel: hence another, of nothing
    body = tirx.SeqStmt([_on_one_item(tirx.Evaluate(0)), _on_one_item(block.body)])
    made = s_tir.SBlock(
        block.iter_vars, block.reads, block.writes, block.name_hint, body, block.init,
        block.alloc_buffers, block.match_buffers, block.annotations,
    )  # fmt: skip
    return func.with_body(s_tir.SBlockRealize(root.iter_values, root.predicate, made))


def _on_one_item(body: tirx.Stmt) -> tirx.Stmt:
    """A kernel of one work group of one work item."""
    for tag in ("threadIdx.x", "blockIdx.x"):
        var = tirx.Var(tag.partition("Idx")[0], "int32")
        axis = tirx.IterVar(tvm.ir.Range(0, 1), var, tirx.IterVar.ThreadIndex, tag)
        body = tirx.For(var, 0, 1, tirx.ForKind.THREAD_BINDING, body, axis)
    return body
