"""Work groups of tiles: how many work items lie along outputs, and how many along rows."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir

from targets.gpu_kernels.threads import gpu_of
from targets.kernels.blocks import Loop, decide
from targets.target import Target

SIDE_OPTIONS = tuple(range(1, 257))
"""Work items along one side of a group."""

USUAL = 64
"""Work items of a group that suit every mobile GPU: a wave of Adreno, four warps of Mali."""


def across_and_down(
    blocks: int, rows: int, target: Target, limit: int = 4
) -> list[tuple[int, int]]:
    """Shapes of work groups for ``blocks`` by ``rows`` tiles, the best guess first.

    Items that have no tile cost as much as others; groups far from USUAL cost a little, and so does a
    condition where tiles are left over. Square groups share more of what they read than oblong ones.
    """
    most = gpu_of(target).max_threads
    shapes = [
        (a, d)
        for a in sides(blocks)
        for d in sides(rows)
        if a * d <= most and (a * d >= 16 or a * d == blocks * rows or (a == blocks and d == rows))
    ] or [(min(blocks, most), 1)]

    def cost(shape: tuple[int, int]) -> float:
        a, d = shape
        computed = -(-blocks // a) * a * (-(-rows // d) * d) / (blocks * rows)
        size = max(a * d / USUAL, USUAL / (a * d))
        split = 0.05 * ((blocks % a > 0) + (rows % d > 0))
        oblong = 0.005 * max(a / d, d / a)
        return computed * (1 + 0.05 * (size - 1) + split + oblong)

    return sorted(shapes, key=lambda s: (cost(s), s))[:limit]


def sides(total: int) -> list[int]:
    """Lengths worth trying for a side of a group: powers of two, and what divides ``total``."""
    powers = {1, 2, 4, 8, 16, 32, 64, 128}
    return sorted(n for n in range(1, min(total, 128) + 1) if n in powers or total % n == 0)


def bind_tiles(
    sch: s_tir.Schedule,
    around: Sequence[Loop],
    rows: Loop,
    blocks: Loop,
    across: int,
    down: int,
) -> Loop:
    """Work groups of ``across`` by ``down`` work items, each with a tile.

    The loops ``around``, ``rows`` and ``blocks`` are nested in this order, with nothing between them. Returns the
    innermost loop, in which a work item's tile is.
    """
    row_group, row = sch.split(rows, [None, decide(sch, SIDE_OPTIONS, down)])
    block_group, block = sch.split(blocks, [None, decide(sch, SIDE_OPTIONS, across)])
    sch.reorder(*around, row_group, block_group, row, block)
    sch.bind(sch.fuse(*around, row_group, block_group), "blockIdx.x")
    sch.bind(row, "threadIdx.y")
    sch.bind(block, "threadIdx.x")
    return block
