"""The tuning space of attention: heads outside, a tile of query rows inside, scores never in memory.

Keys (transposed) and values of one head are copied to local buffers first: the projection that
holds them strides over all heads, by a multiple of the page size for common widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd

from tvm import s_tir, tirx

from targets.kernels.attention import ROW_SLACK
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
    loops_under,
    new_schedule,
    vectorize_last,
    vectorize_own,
    written,
)
from targets.kernels.intrin_lanes import lanes_name
from targets.kernels.rows import partial_reduce, place_reduction, row_lanes, vectorize_chunks
from targets.target import Target

ROW_OPTIONS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
SPLITS = (1, 2, 4)
GROUPS = (1, 2, 3, 4, 5, 6, 8, 16)


@dataclass(frozen=True)
class Attend:
    """One point of the space.

    Attributes:
        rows: query rows of a register tile.
        group: tiles whose probabilities are computed before any of them meets the values. The two
            products in one loop would have the compiler keep the constants of the exponential in
            the registers that the second product needs.
        splits: parts into which the query rows of one head are cut, each with its own copy of the
            keys and values, so that there is work for all threads.
    """

    rows: int
    group: int = 4
    splits: int = 1


def attends(func: tirx.PrimFunc, target: Target) -> list[Attend]:
    """The points worth trying, the one expected to be fastest first."""
    sch = new_schedule(func)
    result = flow(sch)[-1]
    if result.rank != 3:
        return []
    length = extent(sch, sch.get_loops(result.block)[1])
    most = max(1, min(length, (target.registers - 4) // 2))
    shapes = [
        (rows, group)
        for rows in ROW_OPTIONS
        for group in GROUPS
        if rows <= most and rows * group <= ROW_SLACK + 1
    ]
    shapes.sort(key=lambda shape: expected_cost(length, *shape))
    splits = SPLITS[: 2 if target.threads > 1 else 1]
    return [
        Attend(rows, group, s)
        for rows, group in shapes[: 8 // len(splits)]
        for s in splits
        if (s - 1) * rows * group < length  # a part without a row is one that TVM 0.27 fails on
    ]


def expected_cost(length: int, rows: int, group: int) -> float:
    """Query rows computed, surplus ones included, weighted by what tiles of that shape were seen to cost.

    Measured on Zen 4: 4 to 8 rows are alike, more wait for registers, fewer for the latency of
    multiply-adds; groups of less than 3 tiles suffer from the compiler's view of the loops.
    """
    step = rows * group
    computed = -(-length // step) * step
    return computed * (1.0 if 4 <= rows <= 8 else 1.2) * (1 + 0.25 / rows + 0.2 / group)


def schedule_attention(sch: s_tir.Schedule, target: Target, point: Attend) -> None:
    """Schedule the attention kernel."""
    nodes = named(sch, inline_single_use(sch, flow(sch)))
    if set(nodes) | _INLINED != _BLOCKS:
        raise UnsuitedError(
            f"attention was fused with something else: {sorted((set(nodes) | _INLINED) ^ _BLOCKS)}"
        )
    block = {name: n.block for name, n in nodes.items()}
    n, i, c = sch.get_loops(block["o"])
    dim = int(written(sch, block["values"]).shape[-1])
    h, d = sch.split(c, [None, dim])
    part, group, tile, row = sch.split(
        i,
        [
            decide(sch, SPLITS, point.splits),
            None,
            decide(sch, GROUPS, point.group),
            decide(sch, ROW_OPTIONS, point.rows),
        ],
    )
    sch.reorder(n, h, part, group, tile, row, d)
    head = sch.fuse(n, h, part)
    if target.threads > 1:
        sch.parallel(head)
    sch.unroll(row)
    vectorize_last(sch, block["o"], gcd(dim, 2 * target.lanes))
    mixed = weigh_values(sch, block["mixed"], tile, target)
    place_softmax(sch, block, group, target)
    product = score_keys(sch, block["score"], block["product"], group, point.rows, target)
    for name in ("values", "keys"):
        sch.compute_at(block[name], head)
    vectorize_last(sch, block["values"], gcd(dim, 2 * target.lanes))
    sch.reorder(*reversed(loops_under(sch, block["keys"], head)))
    for finish in (
        mixed,
        product,
    ):  # TVM 0.27 places no producer of a block that has been tensorised
        finish()


_BLOCKS = {
    "keys", "values", "product", "score", "peak", "exp_in", "exp_power", "exp_rest", "exp",
    "total", "mixed", "o",
}  # fmt: skip
_INLINED = {"exp_in"}  # into "exp_power", where the exponential is short


def named(sch: s_tir.Schedule, nodes: Sequence[Node]) -> dict[str, Node]:
    """Blocks by name; ``o`` is the one that writes the result, with the elementwise work behind it."""
    return {"o" if n.output else sch.get(n.block).name_hint: n for n in nodes}


def weigh_values(
    sch: s_tir.Schedule, mixed: Block, tile: Loop, target: Target
) -> Callable[[], None]:
    """The product of probabilities and values for one tile of query rows; what is returned ends it."""
    (*_, row, c), (t,) = bring(sch, mixed, tile)
    co, ci = sch.split(c, [None, gcd(extent(sch, c), 2 * target.lanes)])
    sch.reorder(co, t, row, ci)
    sch.unroll(co)
    return register_tile(sch, mixed, t, row, ci, target)


def register_tile(
    sch: s_tir.Schedule, block: Block, reduction: Loop, row: Loop, column: Loop, target: Target
) -> Callable[[], None]:
    """Unroll and vectorise a product whose accumulators stay in registers.

    What is returned makes instructions of it, once all that it reads is in its place.
    """
    name = lanes_name(target, "float32", extent(sch, column))
    if extent(sch, reduction) % target.lanes:
        name = None
    sch.unroll(row)
    if name is None:
        sch.vectorize(column)
    else:
        reduction, vector = sch.split(reduction, [None, target.lanes])
        sch.reorder(reduction, row, vector, column)
    init = sch.decompose_reduction(block, reduction)
    *_, rows, columns = sch.get_loops(init)
    sch.unroll(rows)
    sch.vectorize(columns)
    return lambda: None if name is None else sch.tensorize(vector, name)


def place_softmax(
    sch: s_tir.Schedule, block: dict[str, Block], group: Loop, target: Target
) -> None:
    """Exponentials of a group of rows of scores, with their largest and their sum."""
    lanes = row_lanes(sch, block["total"], target)
    parts = partial_reduce(sch, block["total"], lanes, target)
    place_reduction(sch, parts, group, target)
    (*_, row, _), _ = bring(sch, block["exp"], group, scope="global")
    chunk = vectorize_chunks(sch, block["exp"], 1, target)
    for name in ("exp_rest", "exp_power", "exp_in"):
        if name in block:
            bring(sch, block[name], chunk)
            vectorize_own(sch, block[name])
    place_reduction(sch, partial_reduce(sch, block["peak"], lanes, target), row, target)


def score_keys(
    sch: s_tir.Schedule, score: Block, product: Block, group: Loop, rows: int, target: Target
) -> Callable[[], None]:
    """The products of queries and keys for a group of rows, scaled, biased and masked; as `weigh_values`."""
    (*_, row, j), _ = bring(sch, score, group, scope="global")
    tile, row = sch.split(row, [None, rows])
    jo, ji = sch.split(j, [None, gcd(extent(sch, j), 2 * target.lanes)])
    sch.reorder(tile, jo, row, ji)
    inside = sch.fuse(tile, jo)
    sch.unroll(row)
    sch.vectorize(ji)
    (*_, row, j), (d,) = bring(sch, product, inside)
    sch.reorder(d, row, j)
    return register_tile(sch, product, d, row, j, target)
