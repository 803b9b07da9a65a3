"""The tuning space of convolutions: the register tile of linear layers, within strips of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TypeAlias

import numpy as np
from tvm import s_tir, tirx

from targets.kernels.blocks import (
    Block,
    Loop,
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
from targets.kernels.cache import passing_bytes
from targets.kernels.multiply import multiply_in_tile, multiply_int8
from targets.kernels.multiply_lanes import takes_vectors
from targets.kernels.operands import bytes_of, index_reads, weights_read
from targets.kernels.strip import STRIP_COLUMNS, STRIP_SPACING
from targets.kernels.tile import ROW_OPTIONS, row_options
from targets.target import Target

Multiply: TypeAlias = Callable[[s_tir.Schedule, Block, Loop, Target, Callable[[], None]], None]
"""Brings a product under a loop over tiles, and calls back when it is there, as ``multiply_int8`` does."""


@dataclass(frozen=True)
class ConvTile:
    """One point of the space.

    Attributes:
        columns: output columns of the register tile.
        rows_first: walk all rows of a strip for one block of weights (True), or all blocks for one
            register tile of windows.
    """

    columns: int
    rows_first: bool = True


def conv_tiles(func: tirx.PrimFunc, target: Target, int8: bool = False) -> list[ConvTile]:
    """The tiles worth trying, the one expected to be fastest first."""
    sch = new_schedule(func)
    _, anchor, rest = parts(sch)
    nb = int(written(sch, anchor.block).shape[-1])
    columns = int(written(sch, rest[-1].block).shape[2])
    by_lanes = takes_vectors(sch, anchor.block, target)
    options = row_options(columns, nb, target, int8, by_lanes)
    rows_first = [ConvTile(c) for c in options[:6]]
    windows_first = [ConvTile(c, rows_first=False) for c in options[:2]]
    position = weights_read(sch, anchor.block)
    weights = None if position is None else sch.get(anchor.block).reads[position].source
    if weights is not None and bytes_of(weights) <= passing_bytes(target):
        return windows_first + rows_first
    return rows_first + windows_first


def parts(sch: s_tir.Schedule) -> tuple[Node | None, Node, list[Node]]:
    """(what makes the strips if anything does, the product, the elementwise work behind it)."""
    nodes = flow(sch)
    strips = None if nodes[0].family or nodes[0].reduces else nodes.pop(0)
    if nodes[0].reduces and not nodes[0].family:  # sums that the product is made of
        nodes.pop(0)
    anchor, *rest = nodes
    suited = anchor.family and rest and rest[-1].output and rest[-1].rank == 4
    if not suited or any(node.reduces for node in rest):
        raise UnsuitedError("not a convolution followed by elementwise work")
    return strips, anchor, rest


def tile_conv(
    sch: s_tir.Schedule,
    target: Target,
    tile: ConvTile,
    int8: bool = False,
    multiply: Multiply | None = None,
    options: Sequence[int] = ROW_OPTIONS,
) -> None:
    """Schedule a fused convolution, dense or sparse; ``multiply`` is for products of other numbers.

    Threads share the strips if they divide them evenly. Otherwise all strips are made first, and the
    threads share the work on them. So it is for sparse products of codes too: TVM cannot tell what part
    of a strip they read, and codes are small enough to stay in a cache all the same.
    """
    strips, anchor, rest = parts(sch)
    last = rest[-1].block
    nb = int(written(sch, anchor.block).shape[-1])
    count = int(written(sch, strips.block).shape[1]) if strips else 1
    staged = inline_single_use(sch, rest[:-1])
    image, row, column, j = sch.get_loops(last)
    vector = gcd(extent(sch, j), nb)
    strip, row = sch.split(row, [count, None])
    co, ci = sch.split(column, [None, decide(sch, options, tile.columns)])
    jo, ji = sch.split(j, [None, nb])
    around = [jo, row, co] if tile.rows_first else [row, co, jo]
    sch.reorder(image, strip, *around, ci, ji)
    home, inside = strip, around[-1]
    first = int8 and bool(index_reads(sch, anchor.block))
    if target.threads > 1 and not first and extent(sch, image) * count % target.threads == 0:
        home = sch.fuse(image, strip)
        sch.parallel(home)
    elif target.threads > 1:
        inside = sch.fuse(image, strip, *around)
        sch.parallel(inside)
    for node in reversed(staged):
        bring(sch, node.block, ci)
        vectorize_last(sch, node.block, vector)
    if tile.columns <= max(ROW_OPTIONS):
        sch.unroll(ci)
    vectorize_last(sch, last, vector)

    def place_strips() -> None:
        if strips and not first and (target.threads == 1 or home is not strip):
            sch.compute_at(strips.block, home, preserve_unit_loops=True)
            fill_strips(sch, strips.block, target)
        elif strips:
            rows = fill_strips(sch, strips.block, target)
            if target.threads > 1:
                sch.parallel(rows)

    if multiply is not None:
        multiply(sch, anchor.block, inside, target, place_strips)
    elif int8:
        multiply_int8(sch, anchor.block, inside, target, place_strips)
    else:
        multiply_in_tile(sch, anchor.block, inside, target, place_strips)


def fill_strips(sch: s_tir.Schedule, strips: Block, target: Target) -> Loop:
    """Schedule the copy of the image into strips; return the loop over rows, outer ones included.

    The columns within the image are a loop of their own, without a condition: LLVM makes one copy of it.
    """
    image = next(r.source for r in sch.get(strips).reads if len(r.source.shape) == 4)
    channels, size = int(image.shape[3]), np.dtype(str(image.dtype)).itemsize
    wide, step = (int(sch.get(strips).annotations[name]) for name in (STRIP_COLUMNS, STRIP_SPACING))
    *outer, flat = sch.get_loops(strips)[-3:]
    position, channel = sch.split(flat, [None, step])
    row, column = sch.split(position, [None, wide])
    sch.annotate(column, "pragma_loop_partition_hint", 1)
    lanes = gcd(channels, target.vector_bits // 8 // size)
    if lanes > 2:
        sch.vectorize(sch.split(channel, [None, lanes])[1])
    return sch.fuse(*outer, row)
