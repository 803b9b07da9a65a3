"""What a product reads: its inputs, its weights, and a list of which inputs if it is sparse."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import s_tir, tirx

from targets.kernels.blocks import Block, uses, written


def weights_read(sch: s_tir.Schedule, anchor: Block) -> int | None:
    """Which of the reads of a product is of weights that lie by output; None if they lie in groups."""
    block = sch.get(anchor)
    output = output_axis(block)
    for position, read in enumerate(block.reads):
        along = read.region[-1].min.same_as(output)
        if along and not read.source.same_as(written(sch, anchor)):
            return position
    return None


def index_reads(sch: s_tir.Schedule, anchor: Block) -> list[int]:
    """Which of the reads of a product are of an index list; none if it is dense."""
    return [
        position
        for position, region in enumerate(sch.get(anchor).reads)
        if region.source.dtype == "int32" and region.source.scope() == "global"
    ]


def hide_indices(sch: s_tir.Schedule, anchor: Block) -> None:
    """Take the int32 index list out of the reads that tensorize compares with the intrinsic's.

    The region of the activations keeps the loaded index in it, so that nothing is lost.
    """
    hidden = index_reads(sch, anchor)
    if hidden:
        sch.unsafe_hide_buffer_access(anchor, "read", hidden)


def operand_bytes(sch: s_tir.Schedule, anchor: Block) -> tuple[int, int]:
    """(bytes of all inputs of a product, bytes of all its weights, with their list)."""
    block = sch.get(anchor)
    output, lists = output_axis(block), index_reads(sch, anchor)
    inputs = weights = 0
    for position, read in enumerate(block.reads):
        size = bytes_of(read.source)
        if read.source.same_as(written(sch, anchor)):
            continue
        if position in lists or any(uses(part.min, output) for part in read.region):
            weights += size
        else:
            inputs += size
    return inputs, weights


def output_axis(block: s_tir.SBlock) -> tirx.Var:
    """The axis of the outputs in a packed block of weights: the last that is no reduction."""
    return next(a.var for a in reversed(block.iter_vars) if a.iter_type == tirx.IterVar.DataPar)


def bytes_of(buffer: tirx.Buffer) -> int:
    """Bytes of a whole buffer."""
    return prod(int(d) for d in buffer.shape) * np.dtype(str(buffer.dtype)).itemsize
