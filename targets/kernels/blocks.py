"""Finding one's way in a function to be scheduled: its blocks, their loops, who reads whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from targets.kernels.primfunc import FAMILY

Block: TypeAlias = s_tir.schedule.SBlockRV
Loop: TypeAlias = s_tir.schedule.LoopRV


class UnsuitedError(Exception):
    """A function does not have the form that a tuning space was written for."""


def new_schedule(func: tirx.PrimFunc) -> s_tir.Schedule:
    """A schedule of a copy of ``func`` under the name ``main``.

    A copy, because TVM 0.27 schedules some functions in place although others hold them.
    """
    copy = s_tir.renew_defs(func.with_attr("global_symbol", "main"))
    return s_tir.Schedule(tvm.IRModule({"main": copy}))


def reason(error: Exception) -> str:
    """What a scheduling error says, without the program that it quotes."""
    text = str(error)
    _, mark, message = text.partition("Error message: ")
    return (message if mark else text).strip().partition("\n")[0]


@dataclass
class Node:
    """One block of the function.

    Attributes:
        block: the schedule's handle of it.
        rank: its loops.
        reduces: it has an initial value, so it reduces.
        output: it writes a result of the function.
        family: the family's name if it is the anchor, "" otherwise.
        readers: the blocks that read its result, each with how often it does so as written.
    """

    block: Block
    rank: int
    reduces: bool
    output: bool
    family: str
    readers: list[tuple[Node, int]] = field(default_factory=list)

    @property
    def loads(self) -> int:
        """How often its result is read, as written."""
        return sum(count for _, count in self.readers)


def flow(sch: s_tir.Schedule) -> list[Node]:
    """The blocks of the function in their order, with their readers."""
    blocks = list(sch.get_child_blocks(sch.get_sblock("root")))
    statements = [sch.get(b) for b in blocks]
    local = list(sch.get(sch.get_sblock("root")).alloc_buffers)
    nodes = []
    for block, statement in zip(blocks, statements, strict=True):
        buffer = statement.writes[0].source
        nodes.append(
            Node(
                block,
                rank=len(sch.get_loops(block)),
                reduces=statement.init is not None,
                output=not any(buffer.same_as(b) for b in local),
                family=str(statement.annotations.get(FAMILY, "")),
            )
        )
    for node, statement in zip(nodes, statements, strict=True):
        buffer = statement.writes[0].source
        for other, reading in zip(nodes, statements, strict=True):
            count = loads_of(reading.body, buffer) if other is not node else 0
            if count:
                node.readers.append((other, count))
    return nodes


def anchor_in(nodes: Sequence[Node]) -> int:
    """Position of the block that carries the family's name."""
    for i, node in enumerate(nodes):
        if node.family:
            return i
    raise UnsuitedError("no block carries a family")


def written(sch: s_tir.Schedule, block: Block) -> tirx.Buffer:
    """The first buffer that a block writes."""
    return sch.get(block).writes[0].source


def loops_under(sch: s_tir.Schedule, block: Block, loop: Loop) -> list[Loop]:
    """The loops around ``block`` that are inside ``loop``."""
    loops = list(sch.get_loops(block))
    around = sch.get_sref(loop)
    for i, candidate in enumerate(loops):
        if sch.get_sref(candidate).same_as(around):
            return loops[i + 1 :]
    raise UnsuitedError("a block is not inside a loop that it should be in")


def bring(
    sch: s_tir.Schedule, block: Block, loop: Loop, scope: str = "local"
) -> tuple[list[Loop], list[Loop]]:
    """Compute ``block`` under ``loop`` into ``scope``: its loops (spatial, of reduction).

    A ``local`` buffer becomes registers wherever LLVM can make it so, a ``global`` one is memory of
    the workspace. There is one for each axis of the block, in the order of its axes, trivial ones included.
    """
    sch.compute_at(block, loop, preserve_unit_loops=True)
    sch.set_scope(block, 0, scope)
    spatial: list[Loop] = []
    reduction: list[Loop] = []
    axes = sch.get(block).iter_vars
    for axis, own in zip(axes, loops_under(sch, block, loop), strict=True):
        (reduction if axis.iter_type == tirx.IterVar.CommReduce else spatial).append(own)
    return spatial, reduction


def extent(sch: s_tir.Schedule, loop: Loop) -> int:
    """Iterations of a loop."""
    return int(sch.get(loop).extent)


def loads_of(statement: tirx.Stmt, buffer: tirx.Buffer) -> int:
    """How often ``buffer`` is read in ``statement``, as written."""
    count = 0

    def visit(node: tvm.ir.TensorLoad) -> None:
        nonlocal count
        count += bool(node.source.same_as(buffer))

    tvm_ffi.structural_walk(statement, [(tvm.ir.TensorLoad, visit)], order="post")
    return count


def uses(expression: tirx.Expr, var: tirx.Var) -> bool:
    """True if ``var`` occurs in ``expression``."""
    found = False

    def visit(node: tirx.Var) -> None:
        nonlocal found
        found = found or node.same_as(var)

    tvm_ffi.structural_walk(expression, [(tirx.Var, visit)], order="post")
    return found


def decide(sch: s_tir.Schedule, options: Sequence[int], value: int) -> tirx.Expr:
    """Take ``value`` out of ``options`` and keep the choice in the trace."""
    share = 1.0 / len(options)
    return sch.sample_categorical(
        list(options), [share] * len(options), decision=list(options).index(value)
    )


def inline_single_use(sch: s_tir.Schedule, nodes: Sequence[Node]) -> list[Node]:
    """Inline the elementwise blocks that are read once, by a block with as many loops.

    Never a block that is read more often: that would multiply its expression. Never one with fewer
    loops: that would repeat its work. Returns the others.
    """
    kept = []
    for node in nodes:
        same_rank = all(reader.rank == node.rank for reader, _ in node.readers)
        if node.reduces or node.output or node.loads != 1 or not same_rank:
            kept.append(node)
        else:
            sch.compute_inline(node.block)
    return kept


def vectorize_own(sch: s_tir.Schedule, block: Block) -> None:
    """Vectorise the last loop of ``block``, one that ``bring`` made for it alone.

    A loop with other blocks in it must never be vectorised: their local buffers hold one lane only.
    """
    loop = sch.get_loops(block)[-1]
    if extent(sch, loop) > 1:
        sch.vectorize(loop)


def vectorize_last(sch: s_tir.Schedule, block: Block, width: int, *, unroll: int = 16) -> None:
    """Vectorise the last loop of ``block`` by ``width``.

    What is left of that loop is unrolled if it has at most ``unroll`` steps.
    """
    loop = sch.get_loops(block)[-1]
    total = extent(sch, loop)
    if total <= 1 or width <= 1:
        return
    if total > width:
        outer, loop = sch.split(loop, [None, width])
        if extent(sch, outer) <= unroll:
            sch.unroll(outer)
    sch.vectorize(loop)
