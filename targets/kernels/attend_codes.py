"""Schedules of what the int8 attention kernel does before its products: the codes of one head.

They lie in buffers of the workspace. Sums and maxima over rows stay in registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import TypeAlias

from tvm import s_tir

from targets.kernels.attention_int8 import KEY_MULTIPLE
from targets.kernels.blocks import Block, Loop, bring, extent, vectorize_last, vectorize_own
from targets.kernels.rows import partial_reduce, place_reduction, row_lanes
from targets.target import Target

Dot: TypeAlias = tuple[Loop, str | None]
"""A loop over lanes, and the intrinsic that is to replace it when all else is done: what it replaces
is hidden from ``compute_at``. None where nothing is left to do."""


def accumulate(
    sch: s_tir.Schedule,
    block: Block,
    reduction: Loop,
    unrolled: Sequence[Loop],
    lanes: Loop,
    intrinsic: str | None,
    target: Target,
) -> Dot:
    """Keep the sums of ``block`` in registers, over ``unrolled`` and ``lanes``."""
    for loop in unrolled:
        sch.unroll(loop)
    if extent(sch, lanes) != target.lanes:
        intrinsic = None
    if intrinsic is None and extent(sch, lanes) > 1:
        sch.vectorize(lanes)
    *outer, own = sch.get_loops(sch.decompose_reduction(block, reduction))
    for loop in outer[len(outer) - len(unrolled) :]:
        sch.unroll(loop)
    if extent(sch, own) > 1:
        sch.vectorize(own)
    return lanes, intrinsic


def make_codes(sch: s_tir.Schedule, block: dict[str, Block], head: Loop, target: Target) -> None:
    """The codes of one head, one operand after the other, so that what is read twice is still near."""
    if "shift" in block:
        bring(sch, block["shift"], head)
        vectorize_last(sch, block["shift"], KEY_MULTIPLE, unroll=0)
    (*_, _, c), _ = bring(sch, block["v_words"], head, scope="global")
    outer, lanes = sch.split(c, [None, gcd(extent(sch, c), target.lanes)])
    if extent(sch, lanes) > 1:
        sch.vectorize(lanes)
    (*_, key, _), _ = bring(sch, block["v_codes"], outer)
    sch.unroll(key)
    vectorize_own(sch, block["v_codes"])
    for name in ("v_scale", "v_inverse", "v_span"):
        bring(sch, block[name], head)
        vectorize_own(sch, block[name])
    over_rows(sch, block["v_high"], head, target)
    for name in ("k_codes", "q_codes", "q_rows"):
        bring(sch, block[name], head, scope="global")
        last = extent(sch, sch.get_loops(block[name])[-1])
        vectorize_last(sch, block[name], gcd(last, 2 * target.lanes))
    for name in ("gain", "k_inverse", "k_span", "q_inverse", "q_span"):
        bring(sch, block[name], head)
    for name in ("k_top", "q_top"):
        lanes = row_lanes(sch, block[name], target)
        place_reduction(sch, partial_reduce(sch, block[name], lanes, target), head, target)
    over_rows(sch, block["k_high"], head, target)
    bring(sch, block["k_mean"], head)
    vectorize_own(sch, block["k_mean"])
    over_rows(sch, block["k_whole"], head, target)
    over_rows(sch, block["q_high"], head, target)


def over_rows(sch: s_tir.Schedule, block: Block, head: Loop, target: Target) -> None:
    """A reduction over rows, for each channel of a head, in registers."""
    (*_, c), (row,) = bring(sch, block, head)
    outer, lanes = sch.split(c, [None, gcd(extent(sch, c), target.lanes)])
    sch.reorder(row, outer, lanes)
    accumulate(sch, block, row, (outer,), lanes, None, target)
