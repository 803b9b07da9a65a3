"""The tuning space of convolutions whose every kernel has a pattern of its own, on a GPU.

Outputs share nothing, so a work item takes neighbouring positions of one output: the list of its kernels is read
once for all of them, and neighbouring items read neighbouring positions of the same planes. Planes, sums and the
outputs in their order are a kernel each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from tvm import s_tir, tirx

from targets.gpu_kernels.default import bind_nests
from targets.gpu_kernels.threads import bind_flat, group_sizes
from targets.gpu_kernels.tile import vectorize_loop
from targets.kernels.blocks import (
    UnsuitedError,
    anchor_in,
    decide,
    extent,
    flow,
    inline_single_use,
)
from targets.kernels.space import Apply
from targets.target import Target

POSITION_OPTIONS = (4, 8, 16)
"""Positions of a work item; a plane has a multiple of 16."""

MOST_TAPS = 9


@dataclass(frozen=True)
class PatternTile:
    """One point of the space.

    Attributes:
        positions: of a work item, one of POSITION_OPTIONS.
        items: work items of a group.
    """

    positions: int
    items: int


def pattern_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All tiles worth trying, the one expected to be fastest first."""
    for items in group_sizes(target)[:2]:
        for positions in POSITION_OPTIONS:
            yield partial(tile_pattern, target=target, tile=PatternTile(positions, items))


def tile_pattern(sch: s_tir.Schedule, target: Target, tile: PatternTile) -> None:
    """Schedule a fused convolution with a pattern for each kernel."""
    inline_single_use(sch, flow(sch))
    nodes = flow(sch)
    anchor = nodes[anchor_in(nodes)]
    loops = list(sch.get_loops(anchor.block))
    if len(loops) != 6:
        raise UnsuitedError("not a convolution with a pattern for each kernel")
    bind_nests(sch, [node for node in nodes if node is not anchor], target, tile.items)
    *around, at, kernel, tap = loops
    chunk, position = sch.split(at, [None, decide(sch, POSITION_OPTIONS, tile.positions)])
    sch.reorder(*around, chunk, kernel, tap, position)
    item = bind_flat(sch, [*around, chunk], tile.items)
    stored = sch.cache_write(anchor.block, 0, "local")
    sch.reverse_compute_at(stored, item, preserve_unit_loops=True)
    vectorize_loop(sch, sch.get_loops(stored)[-1])
    vectorize_loop(sch, position)
    if extent(sch, tap) <= MOST_TAPS:
        sch.unroll(tap)
    *_, last = sch.get_loops(sch.decompose_reduction(anchor.block, kernel))
    if sch.get(last).kind == tirx.ForKind.SERIAL:
        vectorize_loop(sch, last)
