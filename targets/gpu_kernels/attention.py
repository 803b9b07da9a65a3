"""The tuning space of attention on a GPU: transposed keys, scores, softmax and mixing of values, a kernel each.

Scores and mixtures are products with register tiles of their own; between them a work group a row makes the
exponentials and their sum. Scores pass through memory: a work group that kept its rows of them in local memory
would leave few rows to each work item, and on Mali that is main memory anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from tvm import s_tir, tirx

from targets.gpu_kernels.default import bind_nest
from targets.gpu_kernels.group import across_and_down, bind_tiles
from targets.gpu_kernels.rows import ITEM_OPTIONS, row_items
from targets.gpu_kernels.threads import group_sizes, vector_width, vectorize_inner
from targets.gpu_kernels.tile import multiply
from targets.kernels.attend import named
from targets.kernels.blocks import (
    Block,
    Loop,
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

ROW_OPTIONS = (1, 2, 4)

COLUMNS = 8
"""Keys, or features, of a register tile, at most."""

STEP = 4
"""Features, or probabilities, of a row that are loaded at once."""

_BLOCKS = {
    "keys", "values", "product", "score", "peak", "exp_in", "exp_power", "exp_rest", "exp", "total", "mixed", "o",
}  # fmt: skip
_INLINED = {"exp_in"}  # into "exp_power", where the exponential is short


@dataclass(frozen=True)
class Attend:
    """One point of the space.

    Attributes:
        rows: query rows of a register tile of either product.
        items: work items that share a row of scores.
    """

    rows: int
    items: int


def attention_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All points worth trying, the best guess first."""
    sch = new_schedule(func)
    nodes = named(sch, flow(sch))
    if "score" not in nodes:
        return
    keys = int(written(sch, nodes["score"].block).shape[-1])
    for number, rows in enumerate(reversed(ROW_OPTIONS)):
        for items in row_items(keys, target)[: 2 if number == 0 else 1]:
            yield partial(schedule_attention, target=target, point=Attend(rows, items))


def schedule_attention(sch: s_tir.Schedule, target: Target, point: Attend) -> None:
    """Schedule the attention kernel."""
    nodes = named(sch, inline_single_use(sch, flow(sch)))
    if set(nodes) | _INLINED != _BLOCKS:
        raise UnsuitedError(
            f"attention was fused with something else: {sorted((set(nodes) | _INLINED) ^ _BLOCKS)}"
        )
    block = {name: node.block for name, node in nodes.items()}
    dim = int(written(sch, block["values"]).shape[-1])
    sch.compute_inline(block["values"])  # read where they lie; keys are transposed first
    mix_values(sch, block, dim, point.rows, target)
    softmax_rows(sch, block, point.items)
    score_keys(sch, block, point.rows, target)
    bind_nest(sch, nodes["keys"], group_sizes(target)[0])


def mix_values(
    sch: s_tir.Schedule, block: dict[str, Block], dim: int, rows: int, target: Target
) -> None:
    """The product of probabilities and values, each row by the inverse of its sum."""
    n, i, c = sch.get_loops(block["o"])
    head, c = sch.split(c, [None, dim])
    sch.reorder(n, head, i, c)
    overhangs = int(written(sch, block["mixed"]).shape[2]) > extent(sch, i)
    height = rows if overhangs else whole(rows, extent(sch, i))
    loops = [n, head, i, c]
    item, tiles, reduction = tile(sch, block["o"], block["mixed"], loops, height, target)
    multiply(sch, block["mixed"], item, tiles, reduction, STEP)


def score_keys(sch: s_tir.Schedule, block: dict[str, Block], rows: int, target: Target) -> None:
    """The products of queries and keys, scaled, biased and masked."""
    loops = list(sch.get_loops(block["score"]))
    height = whole(rows, extent(sch, loops[2]))
    item, tiles, reduction = tile(sch, block["score"], block["product"], loops, height, target)
    multiply(sch, block["product"], item, tiles, reduction, STEP)


def whole(rows: int, total: int) -> int:
    """The most rows of a tile, ``rows`` at most, that leave none over."""
    return max(r for r in ROW_OPTIONS if r <= rows and total % r == 0)


def tile(
    sch: s_tir.Schedule,
    block: Block,
    product: Block,
    loops: list[Loop],
    height: int,
    target: Target,
) -> tuple[Loop, list[Loop], list[Loop]]:
    """Make work items of tiles of ``height`` rows and up to COLUMNS columns, with a product inside.

    Args:
        loops: those of ``block``: batch, head, rows, columns.

    Returns:
        The loop over work items, those of the product's tile, those of its reduction.
    """
    *around, rows, columns = loops
    ro, ri = sch.split(rows, [None, decide(sch, ROW_OPTIONS, height)])
    co, ci = sch.split(columns, [None, vector_width(extent(sch, columns), COLUMNS)])
    sch.reorder(*around, ro, co, ri, ci)
    across, down = across_and_down(extent(sch, co), extent(sch, ro), target, 1)[0]
    spatial, reduction = bring(sch, product, co)
    item = bind_tiles(sch, around, ro, co, across, down)
    sch.unroll(ri)
    vectorize_inner(sch, block)
    return item, spatial[-2:], reduction


def softmax_rows(sch: s_tir.Schedule, block: dict[str, Block], items: int) -> None:
    """Exponentials of scores and their sum, a work group a row.

    Exponentials go to memory, and each work item adds up those that it has just made.
    """
    decide(sch, ITEM_OPTIONS, items)
    *outer, j = sch.get_loops(block["exp"])
    row = sch.fuse(*outer)
    sch.bind(row, "blockIdx.x")
    width = vector_width(extent(sch, j)) if extent(sch, j) >= 4 * items else 1
    item, lanes = share_in_order(sch, j, items, width)
    sch.vectorize(lanes)
    sch.reverse_compute_at(block["total"], row, preserve_unit_loops=True)
    share_in_order(sch, sch.get_loops(block["total"])[-1], items, width)
    for name in ("exp_rest", "exp_power", "exp_in"):
        if name in block:
            bring(sch, block[name], item)
            vectorize_inner(sch, block[name])
    _, (along,) = bring(sch, block["peak"], row)
    share_in_order(sch, along, items, 1)


def share_in_order(sch: s_tir.Schedule, loop: Loop, items: int, width: int) -> tuple[Loop, Loop]:
    """Share a loop among work items, ``width`` neighbouring steps to each: (items, their steps)."""
    _, item, lanes = sch.split(loop, [None, items, width])
    sch.bind(item, "threadIdx.x")
    return item, lanes
