"""Which tuning space a kernel has, and the schedules in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import tvm_ffi
from tvm import s_tir, tirx

from targets.gpu_kernels import spaces as gpu_spaces
from targets.kernels import (
    attend,
    attend_int8,
    attention,
    attention_int8,
    conv,
    conv_bf16,
    conv_depthwise,
    conv_fp16,
    conv_int8,
    conv_pattern,
    conv_sparse,
    conv_sparse_int8,
    linear,
    linear_bf16,
    linear_fp16,
    linear_int8,
    linear_sparse,
    linear_sparse_int8,
    linear_weight_only,
    merge_tokens,
    multiply,
    norm,
    quantize,
    rows,
    softmax,
    stream,
    tile,
    tile_amx,
    tile_conv,
    tile_conv_amx,
    tile_depthwise,
    tile_fp16,
    tile_matrix,
    tile_pattern,
)
from targets.kernels.blocks import UnsuitedError, new_schedule, reason
from targets.kernels.default import default_schedule
from targets.kernels.intrin import dot_name, madd_name
from targets.kernels.intrin_bf16 import dot2_name
from targets.kernels.intrin_lanes import dot_lanes_name, lanes_name
from targets.kernels.intrin_load import WIDTHS, load_name
from targets.kernels.intrin_matrix import products_name, sums_name
from targets.kernels.intrin_words import dot_words_name, sum_words_name
from targets.kernels.primfunc import FAMILY
from targets.kernels.space import Apply, Space, Spaces
from targets.target import Target

DEFAULT = "default"
"""Name of the space of every function that is none of our kernels: one schedule, for all of them."""

_LOG = logging.getLogger(__name__)


def float_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All register tiles worth trying for a float32 product."""
    for point in tile.tiles(func, target, int8=False):
        yield partial(tile.tile_product, target=target, tile=point)


def amx_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All tiles of AMX worth trying for a dense product of groups of four bytes."""
    for point in tile_amx.amx_tiles(func, target):
        yield partial(tile_amx.tile_product_amx, target=target, tile=point)


def bf16_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All register tiles worth trying for a bfloat16 product, those of AMX first."""
    yield from amx_space(func, target)
    for point in tile.tiles(func, target, int8=False):
        yield partial(tile.tile_product_bf16, target=target, tile=point)


def fp16_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All register tiles worth trying for a float16 product."""
    for point in tile_fp16.fp16_tiles(func, target):
        yield partial(tile_fp16.tile_product_fp16, target=target, tile=point)


def int8_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All register tiles worth trying for an int8 product, those of AMX and USMMLA first."""
    if space_name(func) == linear_int8.FAMILY_NAME:
        yield from amx_space(func, target)
        for point in tile_matrix.matrix_tiles(func, target):
            yield partial(tile_matrix.tile_product_matrix, target=target, tile=point)
    for point in tile.tiles(func, target, int8=True):
        yield partial(tile.tile_product_int8, target=target, tile=point)


def stream_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All tiles worth trying for a product on coded weights."""
    for point in stream.streams(func, target):
        yield partial(stream.stream_product, target=target, tile=point)


def conv_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All register tiles worth trying for a float32 convolution."""
    for point in tile_conv.conv_tiles(func, target):
        yield partial(tile_conv.tile_conv, target=target, tile=point)


def depthwise_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All register tiles worth trying for a depthwise convolution."""
    for point in tile_depthwise.depthwise_tiles(func, target):
        yield partial(tile_depthwise.tile_depthwise, target=target, tile=point)


def pattern_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All tiles worth trying for a convolution with a pattern for each kernel."""
    for vectors in tile_pattern.pattern_tiles(func, target):
        yield partial(tile_pattern.tile_pattern, target=target, vectors=vectors)


def conv_int8_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All register tiles worth trying for an int8 convolution, those of AMX and USMMLA first if it is dense."""
    if space_name(func) == conv_int8.FAMILY_NAME:
        yield from tile_conv_amx.conv_tiles_amx(func, target)
        yield from tile_matrix.conv_tiles_matrix(func, target)
    for point in tile_conv.conv_tiles(func, target, int8=True):
        yield partial(tile_conv.tile_conv, target=target, tile=point, int8=True)


def conv_bf16_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All register tiles worth trying for a bfloat16 convolution, those of AMX first."""
    yield from tile_conv_amx.conv_tiles_amx(func, target)
    for point in tile_conv.conv_tiles(func, target):
        yield partial(
            tile_conv.tile_conv, target=target, tile=point, multiply=multiply.multiply_bf16
        )


def row_space(first: int, func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All chunk widths of a kernel that works row by row, ``first`` first; on one thread or on all."""
    for chunk in sorted(rows.CHUNKS, key=lambda c: c != first):
        for shared in rows.sharing(func, target):
            yield partial(rows.schedule_rows, target=target, chunk=chunk, shared=shared)


def attention_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All tiles worth trying for attention."""
    for point in attend.attends(func, target):
        yield partial(attend.schedule_attention, target=target, point=point)


def attention_int8_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All tiles worth trying for attention in int8."""
    for point in attend_int8.attends_int8(func, target):
        yield partial(attend_int8.schedule_attention_int8, target=target, point=point)


def written_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """The one schedule of a kernel whose loops were written by hand."""
    yield lambda sch: None


_PROCESSOR: dict[str, Space] = {
    linear.FAMILY_NAME: float_space,
    linear_sparse.FAMILY_NAME: float_space,
    linear_bf16.FAMILY_NAME: bf16_space,
    linear_fp16.FAMILY_NAME: fp16_space,
    linear_int8.FAMILY_NAME: int8_space,
    linear_sparse_int8.FAMILY_NAME: int8_space,
    linear_weight_only.FAMILY_NAME: stream_space,
    conv.FAMILY_NAME: conv_space,
    conv_sparse.FAMILY_NAME: conv_space,
    conv_bf16.FAMILY_NAME: conv_bf16_space,
    conv_fp16.FAMILY_NAME: tile_fp16.conv_tiles_fp16,
    conv_int8.FAMILY_NAME: conv_int8_space,
    conv_sparse_int8.FAMILY_NAME: conv_int8_space,
    conv_depthwise.FAMILY_NAME: depthwise_space,
    conv_pattern.FAMILY_NAME: pattern_space,
    quantize.FAMILY_NAME: partial(row_space, 2),
    norm.FAMILY_NAME: partial(row_space, 4),
    softmax.FAMILY_NAME: partial(row_space, 1),
    attention.FAMILY_NAME: attention_space,
    attention_int8.FAMILY_NAME: attention_int8_space,
    merge_tokens.FAMILY_NAME: written_space,
}

_KINDS: dict[str, Spaces] = {
    "llvm": Spaces(_PROCESSOR, default_schedule),
    "opencl": gpu_spaces.SPACES,
}
"""By the code generator that the schedules are for."""


def space_name(func: tirx.PrimFunc) -> str:
    """The family of the kernel, ``default`` if it is none of ours."""
    found: list[str] = []

    def visit(block: s_tir.SBlock) -> None:
        if FAMILY in block.annotations:
            found.append(str(block.annotations[FAMILY]))

    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, visit)], order="post")
    return found[0] if found else DEFAULT


def intrinsics(target: Target) -> list[str]:
    """The tensor intrinsics that schedules for a target may name; all are registered then.

    A schedule that is made registers what it uses. A trace from a database only names it.
    """
    names = (dot_name, madd_name, dot_words_name, sum_words_name, dot2_name)
    found = [name(target) for name in names] + [load_name(width) for width in WIDTHS]
    for outputs in (4, *WIDTHS):  # of a register tile; attention's may be less than a block
        found += [lanes_name(target, dtype, outputs) for dtype in ("float32", "float16")]
        found += [name(target, outputs) for name in (dot_lanes_name, products_name, sums_name)]
    return [name for name in found if name is not None]


def schedules(
    func: tirx.PrimFunc, target: Target, limit: int | None = None
) -> list[s_tir.Schedule]:
    """The schedules worth measuring for ``func`` on ``target``, the best guess first; never empty.

    Each schedules the function as ``main`` of its own module; ``func`` itself stays as it is. Every
    choice is in the schedule's trace, so that it can be stored in MetaSchedule's database and applied
    to the unscheduled function again. A function that no space fits gets the default schedule.

    Args:
        func: an unscheduled kernel.
        target: what it is for.
        limit: most schedules to make; each takes tens of milliseconds.
    """
    name = space_name(func)
    spaces = _KINDS[target.kind]
    found: list[s_tir.Schedule] = []
    refused: dict[str, None] = {}
    if name in spaces.by_family:
        for apply in spaces.by_family[name](func, target):
            sch = new_schedule(func)
            try:
                apply(sch)
            except (UnsuitedError, s_tir.ScheduleError) as error:
                refused[reason(error)] = None
                continue
            found.append(sch)
            if len(found) == limit:
                break
    if refused:
        _LOG.warning("schedules of space %s that do not fit: %s", name, "; ".join(refused))
    return found or [spaces.default(func, target)]
