"""The tuning space of depthwise convolutions on a GPU: a few columns by a vector of channels for a work item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from tvm import s_tir, tirx

from targets.gpu_kernels.group import across_and_down, bind_tiles
from targets.gpu_kernels.threads import vector_width, vectorize_inner
from targets.kernels.blocks import (
    UnsuitedError,
    bring,
    decide,
    extent,
    flow,
    inline_single_use,
    new_schedule,
    written,
)
from targets.kernels.space import Apply
from targets.target import Target

COLUMN_OPTIONS = (1, 2, 3, 4)

MOST_TAPS = 9
"""Rows of a kernel are unrolled up to so many taps; beyond, only what lies within one row is."""


@dataclass(frozen=True)
class DepthwiseTile:
    """One point of the space.

    Attributes:
        columns: output columns of a work item.
        across, down: work items of a group along channels, and along positions of the image.
    """

    columns: int
    across: int
    down: int


def depthwise(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All tiles worth trying, the one expected to be fastest first."""
    for point in depthwise_tiles(func, target):
        yield partial(tile_depthwise, tile=point)


def depthwise_tiles(func: tirx.PrimFunc, target: Target) -> list[DepthwiseTile]:
    """The points of the space: neighbouring columns share taps, as long as few columns are left over."""
    sch = new_schedule(func)
    _, high, wide, channels = (int(d) for d in written(sch, flow(sch)[-1].block).shape)
    vectors = channels // vector_width(channels)
    options = [c for c in COLUMN_OPTIONS if c <= wide]
    options.sort(key=lambda c: -(-wide // c) * (c + 1))
    points = []
    for number, c in enumerate(options):
        shapes = across_and_down(vectors, high * -(-wide // c), target)
        points += [DepthwiseTile(c, a, d) for a, d in shapes[: 3 if number == 0 else 1]]
    return points


def tile_depthwise(sch: s_tir.Schedule, tile: DepthwiseTile) -> None:
    """Schedule a fused depthwise convolution."""
    anchor, *rest = flow(sch)
    if not anchor.family or not rest or not rest[-1].output or rest[-1].rank != 4:
        raise UnsuitedError("not a depthwise convolution followed by elementwise work")
    staged = inline_single_use(sch, rest[:-1])
    image, row, column, channel = sch.get_loops(rest[-1].block)
    co, ci = sch.split(column, [None, decide(sch, COLUMN_OPTIONS, tile.columns)])
    vectors, lanes = sch.split(channel, [None, vector_width(extent(sch, channel))])
    sch.reorder(image, row, co, vectors, ci, lanes)
    item = bind_tiles(sch, [image], sch.fuse(row, co), vectors, tile.across, tile.down)
    for node in reversed(staged):
        bring(sch, node.block, ci)
        vectorize_inner(sch, node.block)
    sch.unroll(ci)
    sch.vectorize(lanes)
    (*_, c, j), (r, s) = bring(sch, anchor.block, item)
    sch.reorder(r, s, c, j)
    for loop in (s, c):
        sch.unroll(loop)
    if extent(sch, r) * extent(sch, s) <= MOST_TAPS:
        sch.unroll(r)
    vectorize_inner(sch, anchor.block)
    init = sch.decompose_reduction(anchor.block, r)
    sch.unroll(sch.get_loops(init)[-2])
