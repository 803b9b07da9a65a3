"""Loops become work groups and work items."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from targets.gpu import Gpu
from targets.kernels.blocks import Block, Loop, decide, extent
from targets.target import Target

WIDTHS = (16, 8, 4, 2)
"""Elements that OpenCL has vectors of; those of three take the memory of four."""

GROUP_OPTIONS = (32, 64, 128, 256)
"""Work items of a group."""


def gpu_of(target: Target) -> Gpu:
    """The GPU of a target that has one."""
    assert target.gpu is not None, f"{target.name} has no GPU"
    return target.gpu


def group_sizes(target: Target, first: int = 64) -> list[int]:
    """Sizes of work groups that the target allows, ``first`` first."""
    most = gpu_of(target).max_threads
    return sorted((n for n in GROUP_OPTIONS if n <= most), key=lambda n: (n != first, n))


def bind_flat(sch: s_tir.Schedule, loops: Sequence[Loop], items: int) -> Loop:
    """One work item for each step of ``loops``, ``items`` to a group; returns the loop of items.

    The steps that the last group has too many do nothing.
    """
    loop = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    size = decide(sch, GROUP_OPTIONS, items)
    total = extent(sch, loop)
    groups, inner = sch.split(loop, [None, size if total >= items else total])
    sch.bind(groups, "blockIdx.x")
    sch.bind(inner, "threadIdx.x")
    return inner


def vector_width(total: int, most: int = 4) -> int:
    """The widest vector of OpenCL that divides a loop of ``total`` steps, 1 if none does."""
    return next((w for w in WIDTHS if w <= most and total % w == 0), 1)


def has_truth_values(sch: s_tir.Schedule, block: Block) -> bool:
    """Whether a block computes with bool: OpenCL C has no vectors of it, and TVM 0.27 takes integers instead."""
    found = False

    def visit(node: tvm.ir.Expr) -> None:
        nonlocal found
        found = found or str(node.ty.dtype) == "bool"

    kinds = ((tvm.ir.TensorLoad, visit), (tirx.Cast, visit))
    statement = sch.get(block)
    tvm_ffi.structural_walk(statement.body, kinds, order="post")
    return found or any(str(w.source.dtype) == "bool" for w in statement.writes)


def vectorize_inner(sch: s_tir.Schedule, block: Block, most: int = 4) -> None:
    """Vectorise the last loop of ``block``, one of its own; what is left of it is unrolled."""
    loop = sch.get_loops(block)[-1]
    total = extent(sch, loop)
    width = 1 if has_truth_values(sch, block) else vector_width(total, most)
    if width == 1:
        if 1 < total <= 16:
            sch.unroll(loop)
        return
    if total > width:
        outer, loop = sch.split(loop, [None, width])
        if extent(sch, outer) <= 16:
            sch.unroll(outer)
    sch.vectorize(loop)


def shared_width(first: int, second: int) -> int:
    """A vector that both extents are made of."""
    return vector_width(gcd(first, second))
