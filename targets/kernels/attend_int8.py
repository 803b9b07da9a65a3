"""The tuning space of attention in int8: heads outside, a group of query rows inside.

The codes of one head are made first; the scores and probabilities of a group of rows stay in the
first level cache. Rows lie along the lanes until the probabilities meet the values, whose channels do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from tvm import s_tir, tirx

from targets.kernels.attend import SPLITS, named
from targets.kernels.attend_codes import Dot, accumulate, make_codes
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
    vectorize_last,
    vectorize_own,
    written,
)
from targets.kernels.intrin import dot_name
from targets.kernels.intrin_words import dot_words_name, sum_words_name
from targets.target import Target

GROUP_OPTIONS = (8, 16, 32, 48, 64)
ROW_OPTIONS = (1, 2, 4, 8)
KEY_OPTIONS = (2, 4, 8)

MOST_VECTORS = 4
"""Vectors of values, side by side, that a register tile spans."""


@dataclass(frozen=True)
class AttendInt8:
    """One point of the space.

    Attributes:
        group: query rows whose probabilities are held at once, whole vectors of them.
        rows: query rows of the register tile of probabilities and values; they divide ``group``.
        keys: keys of the register tile of keys and queries.
        splits: parts into which the query rows of one head are cut, each with its own copy of the
            codes, so that there is work for all threads.
    """

    group: int
    rows: int
    keys: int = 8
    splits: int = 1


def attends_int8(func: tirx.PrimFunc, target: Target) -> list[AttendInt8]:
    """The points worth trying, the one expected to be fastest first."""
    sch = new_schedule(func)
    nodes = {sch.get(n.block).name_hint: n for n in flow(sch)}
    if "o" not in nodes or nodes["o"].rank != 3:
        return []
    length = extent(sch, sch.get_loops(nodes["o"].block)[1])
    dim = int(written(sch, nodes["mixed"].block).shape[-1])
    vectors = -(-dim // target.lanes)
    points = []
    for group in GROUP_OPTIONS:
        for rows in ROW_OPTIONS:
            held = rows * min(vectors, MOST_VECTORS) + min(vectors, MOST_VECTORS) + 1
            if group % target.lanes == 0 and group >= rows and held <= target.registers:
                most = target.registers // 2 // (group // target.lanes)
                keys = max((k for k in KEY_OPTIONS if k <= most), default=KEY_OPTIONS[0])
                points.append(AttendInt8(group, rows, keys))
    points.sort(key=lambda p: expected_cost(length, p))
    splits = SPLITS[: 2 if target.threads > 1 else 1]
    return [
        AttendInt8(p.group, p.rows, p.keys, s)
        for p in points[: 8 // len(splits)]
        for s in splits
        if (s - 1) * p.group < length  # as in `attend`
    ]


def expected_cost(length: int, point: AttendInt8) -> float:
    """Query rows computed, surplus ones included, weighted by what tiles were seen to cost on Zen 4."""
    computed = -(-length // point.group) * point.group
    return computed * (1 + 0.2 / point.rows + 0.1 / point.keys + 0.3 / point.group)


def schedule_attention_int8(sch: s_tir.Schedule, target: Target, point: AttendInt8) -> None:
    """Schedule the attention kernel."""
    kept = [n for n in flow(sch) if sch.get(n.block).name_hint not in _STAGED]
    inline_single_use(sch, kept)
    nodes = named(sch, flow(sch))
    if set(nodes) - {"shift"} != _BLOCKS:
        raise UnsuitedError(
            f"attention was fused with something else: {sorted(set(nodes) ^ _BLOCKS)}"
        )
    block = {name: n.block for name, n in nodes.items()}
    dim = int(written(sch, block["v_words"]).shape[-1])
    n, i, c = sch.get_loops(block["o"])
    h, d = sch.split(c, [None, dim])
    part, group, tile, row = sch.split(
        i,
        [
            decide(sch, SPLITS, point.splits),
            None,
            point.group // point.rows,
            decide(sch, ROW_OPTIONS, point.rows),
        ],
    )
    sch.reorder(n, h, part, group, tile, row, d)
    head = sch.fuse(n, h, part)
    if target.threads > 1:
        sch.parallel(head)
    sch.unroll(row)
    vectorize_last(sch, block["o"], gcd(dim, target.lanes))
    dots = [
        weigh_values(sch, block["mixed"], tile, target),
        *place_probabilities(sch, block, group, target),
        score_keys(sch, block["score"], block["product"], group, point.keys, target),
    ]
    make_codes(sch, block, head, target)
    for lanes, intrinsic in dots:
        if intrinsic is not None:
            sch.tensorize(lanes, intrinsic)


_STAGED = {"inverse", "v_scale"}
_BLOCKS = _STAGED | {
    "q_high", "q_top", "q_span", "q_inverse", "q_rows", "q_codes",
    "k_whole", "k_mean", "k_high", "k_top", "k_span", "k_inverse", "k_codes",
    "v_high", "v_span", "v_inverse", "v_codes", "v_words",
    "gain", "product", "score", "peak", "power", "mantissa", "codes", "words", "total",
    "mixed", "o",
}  # fmt: skip


def weigh_values(sch: s_tir.Schedule, mixed: Block, tile: Loop, target: Target) -> Dot:
    """The product of probabilities and values for one tile of query rows."""
    (*_, row, c), (t,) = bring(sch, mixed, tile)
    width = gcd(extent(sch, c), MOST_VECTORS * target.lanes)
    co, ci = sch.split(c, [None, width])
    cj, ci = sch.split(ci, [None, gcd(width, target.lanes)])
    sch.reorder(co, t, row, cj, ci)
    return accumulate(sch, mixed, t, (row, cj), ci, dot_words_name(target), target)


def place_probabilities(
    sch: s_tir.Schedule, block: dict[str, Block], group: Loop, target: Target
) -> list[Dot]:
    """Codes of the exponentials of a group of rows, their sum, and the largest score of each row."""
    bring(sch, block["inverse"], group)
    vectorize_last(sch, block["inverse"], target.lanes)
    total = along_keys(sch, block["total"], group, sum_words_name(target), target)
    (*_, t, row), _ = bring(sch, block["words"], group, scope="global")
    ro, ri = sch.split(row, [None, target.lanes])
    sch.reorder(t, ro, ri)
    sch.vectorize(ri)
    for name in ("codes", "mantissa", "power"):
        (*_, b, _), _ = bring(sch, block[name], ro)
        sch.unroll(b)
        vectorize_own(sch, block[name])
    return [total, along_keys(sch, block["peak"], group, None, target)]


def along_keys(
    sch: s_tir.Schedule, block: Block, group: Loop, intrinsic: str | None, target: Target
) -> Dot:
    """A reduction over keys for a group of rows, in registers."""
    (*_, row), (t,) = bring(sch, block, group)
    ro, ri = sch.split(row, [None, target.lanes])
    sch.reorder(t, ro, ri)
    return accumulate(sch, block, t, (ro,), ri, intrinsic, target)


def score_keys(
    sch: s_tir.Schedule, score: Block, product: Block, group: Loop, keys: int, target: Target
) -> Dot:
    """The products of keys and queries for a group of rows, scaled and biased."""
    (*_, j, row), _ = bring(sch, score, group, scope="global")
    jo, ji = sch.split(j, [None, decide(sch, KEY_OPTIONS, keys)])
    ro, ri = sch.split(row, [None, target.lanes])
    sch.unroll(ji)
    sch.unroll(ro)
    sch.vectorize(ri)
    (*_, j, row), (d, b) = bring(sch, product, jo)
    ro, ri = sch.split(row, [None, target.lanes])
    dot = dot_name(target)
    if dot is None:
        sch.reorder(d, j, ro, b, ri)
        sch.unroll(b)
    else:
        sch.reorder(d, j, ro, ri, b)
    return accumulate(sch, product, d, (j, ro), ri, dot, target)
