"""Products by whole vectors of inputs: each of their numbers, or groups, is multiplied by the weights.

AArch64 multiplies a vector by one element of another, so that inputs are loaded a vector at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import s_tir, tirx

from targets.kernels.blocks import Block, Loop, extent, written
from targets.kernels.intrin_lanes import GROUPS, dot_lanes_name, inputs_of, lanes_name
from targets.kernels.offsets import OFFSETS, ROWS
from targets.kernels.operands import index_reads
from targets.target import Target


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
