"""The fixed kernel that runs between timed ones: its time is the yardstick of a machine's mood."""

from __future__ import annotations

import tvm
import tvm.s_tir
from tvm import te, tirx

from codesign.kernel_args import KernelArg, kernel_args
from targets.kernels import spaces
from targets.target import Target

ROWS, INNER, OUTPUTS = 128, 384, 384
_BLOCK, _TILE_ROWS = 16, 8


def reference_for(target: Target) -> tuple[tirx.PrimFunc, tuple[KernelArg, ...]]:
    """The reference kernel scheduled for a target, and its arguments.

    On a GPU it is the same product under the first schedule of our space for it.
    """
    product = _product()
    if target.gpu is None:
        return reference_kernel(target.threads > 1), kernel_args(product)
    scheduled = spaces.schedules(product, target, limit=1)[0].mod["main"]
    return scheduled.without_attr("global_symbol"), kernel_args(product)


def reference_kernel(parallel: bool = False) -> tirx.PrimFunc:
    """A scheduled dense float32 product, 128x384 by 384x384, packed weights.

    It never changes: ratios to it in old records would lose their meaning.

    Args:
        parallel: over the blocks of outputs.
    """
    func = _product()
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": func}))
    block = schedule.get_sblock("y")
    local = schedule.cache_write(block, 0, "local")
    m, n = schedule.get_loops(local)
    m_outer, m_inner = schedule.split(m, [None, _TILE_ROWS])
    n_outer, n_inner = schedule.split(n, [None, _BLOCK])
    schedule.reorder(n_outer, m_outer, m_inner, n_inner)
    schedule.compute_at(block, m_outer)
    *_, rows, columns, k = schedule.get_loops(block)
    schedule.reorder(k, rows, columns)
    for body in (block, local):
        _unroll_tile(schedule, body)
    if parallel:
        schedule.parallel(n_outer)
    _unroll_tile(schedule, schedule.decompose_reduction(block, k))
    return schedule.mod["main"].without_attr("global_symbol")


def _product() -> tirx.PrimFunc:
    """The product without a schedule."""
    inner = te.reduce_axis((0, INNER), name="k")
    x = te.placeholder((ROWS, INNER), name="x")
    w = te.placeholder((OUTPUTS // _BLOCK, INNER, _BLOCK), name="w")
    y = te.compute(
        (ROWS, OUTPUTS),
        lambda m, n: te.sum(x[m, inner] * w[n // _BLOCK, inner, n % _BLOCK], axis=inner),
        name="y",
    )
    return te.create_prim_func([x, w, y]).with_attr("tirx.noalias", True)


def _unroll_tile(schedule: tvm.s_tir.Schedule, block: tvm.s_tir.schedule.SBlockRV) -> None:
    *_, rows, columns = schedule.get_loops(block)
    schedule.unroll(rows)
    schedule.vectorize(columns)
