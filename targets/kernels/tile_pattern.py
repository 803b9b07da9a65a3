"""The schedule of convolutions with a pattern for each kernel: a tile of positions of one output."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from tvm import s_tir, tirx

from targets.kernels.blocks import (
    Block,
    Node,
    UnsuitedError,
    bring,
    decide,
    extent,
    flow,
    inline_single_use,
    new_schedule,
    vectorize_last,
    written,
)
from targets.kernels.conv_pattern import MOST_VECTORS
from targets.kernels.strip import STRIP_COLUMNS
from targets.target import Target

VECTOR_OPTIONS = tuple(range(1, MOST_VECTORS + 1))


def pattern_tiles(func: tirx.PrimFunc, target: Target) -> list[int]:
    """Vectors of positions in a tile: the most that registers hold and that divide a strip's, and fewer."""
    sch = new_schedule(func)
    product = next(node for node in flow(sch) if node.family)
    vectors = int(written(sch, product.block).shape[-1]) // target.lanes
    most = min(MOST_VECTORS, target.registers - 2 - target.operands)
    return [v for v in reversed(VECTOR_OPTIONS) if v <= most and vectors % v == 0][:4]


def tile_pattern(sch: s_tir.Schedule, target: Target, vectors: int) -> None:
    """Schedule a fused convolution with patterns: planes, then sums strip by strip, then the outputs."""
    planes, anchor, *rest = flow(sch)
    if not anchor.family or not rest or not rest[-1].output or rest[-1].rank != 4:
        raise UnsuitedError("not a convolution followed by elementwise work")
    copied = sch.cache_write(anchor.block, 0, "local")
    image, strip, output, position = sch.get_loops(copied)
    size = decide(sch, VECTOR_OPTIONS, vectors)
    tile, vector, lane = sch.split(position, [None, size, target.lanes])
    home = sch.fuse(image, strip)
    inside = tile
    if target.threads > 1 and extent(sch, home) % target.threads == 0:
        sch.parallel(home)
    elif target.threads > 1:
        home, inside = None, sch.fuse(home, output, tile)
        sch.parallel(inside)
    sch.unroll(vector)
    sch.vectorize(lane)
    spatial, (k, t) = bring(sch, anchor.block, inside)
    vector, lane = sch.split(spatial[-1], [None, target.lanes])
    sch.reorder(k, t, vector, lane)
    for loop in (t, vector):
        sch.unroll(loop)
    sch.vectorize(lane)
    *_, vector, lane = sch.get_loops(sch.decompose_reduction(anchor.block, k))
    sch.unroll(vector)
    sch.vectorize(lane)
    if home is not None:
        sch.compute_at(planes.block, home, preserve_unit_loops=True)
    fill_planes(sch, planes.block, shared=home is None)
    write_outputs(sch, rest, target)


def fill_planes(sch: s_tir.Schedule, planes: Block, shared: bool) -> None:
    """Schedule the copy of the image into planes."""
    wide = int(sch.get(planes).annotations[STRIP_COLUMNS])
    *outer, channel, position = sch.get_loops(planes)[-4:]
    _, column = sch.split(position, [None, wide])
    sch.annotate(column, "pragma_loop_partition_hint", 1)
    if shared:
        sch.parallel(sch.fuse(*outer, channel))


def write_outputs(sch: s_tir.Schedule, rest: Sequence[Node], target: Target) -> None:
    """Schedule what makes the outputs of the sums: from one plane for each to one vector of all."""
    last = rest[-1].block
    staged = inline_single_use(sch, rest[:-1])
    image, row, column, output = sch.get_loops(last)
    lanes = gcd(extent(sch, output), target.lanes)
    block, vector = sch.split(output, [None, lanes])
    sch.reorder(image, row, block, column, vector)
    if target.threads > 1:
        sch.parallel(sch.fuse(image, row))
    for node in reversed(staged):
        bring(sch, node.block, column)
        vectorize_last(sch, node.block, lanes)
    sch.vectorize(vector)
