"""The part of the tuning space of convolutions that AMX does: 16 or 32 columns of a row, two tiles of outputs.

Each row of the kernel is a run of groups in the strip, and all runs are added up in the tile registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from tvm import s_tir, tirx

from targets.kernels.amx_nest import SIDE, TILES, groups_at_once
from targets.kernels.blocks import Block, Loop, bring, extent, new_schedule, written
from targets.kernels.strip import STRIP_COLUMNS
from targets.kernels.tile_amx import FEWEST_GROUPS, ROW_OPTIONS
from targets.kernels.tile_conv import ConvTile, parts, tile_conv
from targets.target import Target


def conv_tiles_amx(
    func: tirx.PrimFunc, target: Target
) -> Iterator[Callable[[s_tir.Schedule], None]]:
    """Schedules worth trying for a dense convolution of groups of four bytes; none without AMX.

    Nor where single positions are read from the image itself, or a tile would be rather empty.
    """
    sch = new_schedule(func)
    strips, anchor, rest = parts(sch)
    *_, wide, _, nb = (int(d) for d in written(sch, anchor.block).shape)
    groups = extent(sch, sch.get_loops(anchor.block)[-2])
    if not target.has_tiles or strips is None or nb not in (SIDE, 2 * SIDE):
        return
    if STRIP_COLUMNS not in sch.get(strips.block).annotations:
        return
    if groups_at_once(groups) < FEWEST_GROUPS:
        return
    columns = int(written(sch, rest[-1].block).shape[2])
    fitting = [c for c in ROW_OPTIONS if -(-columns // c) * c <= wide]
    fitting.sort(key=lambda c: -(-columns // c) * (c + 1))
    for point in [ConvTile(c, first) for c in fitting for first in (True, False)]:
        yield partial(
            tile_conv, target=target, tile=point, multiply=multiply_amx, options=ROW_OPTIONS
        )


def multiply_amx(
    sch: s_tir.Schedule,
    anchor: Block,
    inside: Loop,
    target: Target,
    placed: Callable[[], None] = lambda: None,
) -> None:
    """Bring a product under the loop ``inside`` over tiles, and mark it for ``lower_tiles``."""
    (*_, r, o, j), (*runs, g, i) = bring(sch, anchor, inside)
    sch.reorder(o, *runs, g, r, j, i)
    sch.annotate(o, TILES, 1)
    placed()
