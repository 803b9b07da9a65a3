"""Which tuning space a kernel has, and the schedules in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from targets.kernels import (
    attend,
    attention,
    linear,
    linear_int8,
    linear_sparse,
    linear_sparse_int8,
    norm,
    quantize,
    rows,
    softmax,
    tile,
)
from targets.kernels.blocks import Unsuited
from targets.kernels.default import default_schedule
from targets.kernels.primfunc import FAMILY
from targets.target import Target

Apply = Callable[[s_tir.Schedule], None]
Space = Callable[[tirx.PrimFunc, Target], Iterator[Apply]]

_LOG = logging.getLogger(__name__)


def product_space(
    apply: Callable[[s_tir.Schedule, Target, tile.Tile], None],
    func: tirx.PrimFunc,
    target: Target,
) -> Iterator[Apply]:
    """All register tiles worth trying for a matrix product."""
    for point in tile.tiles(func, target):
        yield partial(apply, target=target, tile=point)


def row_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """The one schedule of kernels that work row by row."""
    yield partial(rows.schedule_rows, target=target)


def attention_space(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """Tiles of query rows, and parts of a head for several threads."""
    for point in attend.attends(func, target):
        yield partial(attend.schedule_attention, target=target, point=point)


_SPACES: dict[str, Space] = {
    attention.FAMILY_NAME: attention_space,
    linear.FAMILY_NAME: partial(product_space, tile.tile_product),
    linear_sparse.FAMILY_NAME: partial(product_space, tile.tile_product),
    linear_int8.FAMILY_NAME: partial(product_space, tile.tile_product_int8),
    linear_sparse_int8.FAMILY_NAME: partial(product_space, tile.tile_product_int8),
    quantize.FAMILY_NAME: row_space,
    norm.FAMILY_NAME: row_space,
    softmax.FAMILY_NAME: row_space,
}


def space_name(func: tirx.PrimFunc) -> str:
    """The family of the kernel, ``default`` if it is none of ours."""
    found: list[str] = []

    def visit(block: s_tir.SBlock) -> None:
        if FAMILY in block.annotations:
            found.append(str(block.annotations[FAMILY]))

    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, visit)], order="post")
    return found[0] if found else "default"


def schedules(func: tirx.PrimFunc, target: Target) -> list[s_tir.Schedule]:
    """The schedules worth measuring for ``func`` on ``target``, the best guess first; never empty.

    Every choice is in the schedule's trace, so that it can be stored in MetaSchedule's database and
    applied to the unscheduled function again. A function that no space fits gets the default.
    """
    func = func.with_attr("global_symbol", "main")
    name = space_name(func)
    space = _SPACES.get(name)
    found = []
    for apply in space(func, target) if space else ():
        sch = s_tir.Schedule(tvm.IRModule({"main": func}))
        try:
            apply(sch)
        except (Unsuited, s_tir.ScheduleError) as error:
            _LOG.warning("a schedule of space %s does not fit: %s", name, _reason(error))
            continue
        found.append(sch)
    return found or [default_schedule(func, target)]


def _reason(error: Exception) -> str:
    """What a scheduling error says, without the program that it quotes."""
    _, mark, reason = str(error).partition("Error message: ")
    return reason.splitlines()[0] if mark else str(error).splitlines()[0]
