"""The kernels that a lowered model really runs: listed, scheduled and put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.s_tir import Schedule

from passes.kernel_names import readable
from passes.model import Model
from targets.kernels import spaces
from targets.target import Target

Choose = Callable[[tirx.PrimFunc], "Schedule | tirx.PrimFunc"]
"""Picks the scheduled form of one kernel."""


@dataclass(frozen=True)
class Kernel:
    """One distinct kernel of a lowered model.

    Attributes:
        hash: structural hash without the function's name, 16 hex digits; equal kernels of any
            model share it, and with it their schedules and measurements.
        func: the unscheduled PrimFunc.
        name: readable, such as ``linear_add_gelu``.
        count: calls in one run of the model.
    """

    hash: str
    func: tirx.PrimFunc
    name: str
    count: int


def kernel_hash(func: tirx.PrimFunc) -> str:
    """Structural hash of a kernel, whatever it is called."""
    return f"{tvm_ffi.structural_hash(anonymous(func)):016x}"


def anonymous(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The kernel without its global symbol."""
    named = func.attrs is not None and "global_symbol" in func.attrs
    return func.without_attr("global_symbol") if named else func


def kernels(lowered: Model) -> list[Kernel]:
    """The distinct kernels of a lowered model in order of first call."""
    counts: dict[str, int] = {}
    found: dict[str, Kernel] = {}
    hashes = {gv: kernel_hash(f) for gv, f in prim_funcs(lowered.mod).items()}
    for gv in _called(lowered.main):
        key = hashes[gv]
        counts[key] = counts.get(key, 0) + 1
        found.setdefault(key, Kernel(key, anonymous(lowered.mod[gv]), readable(gv.name_hint), 0))
    return [replace(k, count=counts[k.hash]) for k in found.values()]


def schedule(lowered: Model, choose: Choose) -> tvm.IRModule:
    """The lowered module with every kernel replaced by the scheduled form that ``choose`` picks.

    ``choose`` is asked once per distinct kernel.
    """
    return schedule_module(lowered.mod, choose)


def schedule_module(mod: tvm.IRModule, choose: Choose) -> tvm.IRModule:
    """As ``schedule``, for a module with any number of Relax functions."""
    done: dict[str, tirx.PrimFunc] = {}
    scheduled = dict(mod.functions_items())
    for gv, func in prim_funcs(mod).items():
        key = kernel_hash(func)
        if key not in done:
            choice = choose(anonymous(func))
            done[key] = anonymous(choice.mod["main"] if isinstance(choice, Schedule) else choice)
        scheduled[gv] = done[key]
    return tvm.IRModule(scheduled)


def default_schedules(target: Target) -> Choose:
    """The choice of the default schedule (the first of its tuning space) for every kernel."""
    return lambda func: spaces.schedules(func, target, limit=1)[0]


def prim_funcs(mod: tvm.IRModule) -> dict[tvm.ir.GlobalVar, tirx.PrimFunc]:
    """The kernels of a module by global variable."""
    return {gv: f for gv, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)}


def _called(func: relax.Function) -> list[tvm.ir.GlobalVar]:
    """The kernel of every call_tir, in order."""
    calls = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and expr.op == tvm.ir.Op.get("relax.call_tir"):
            calls.append(expr.args[0])

    relax.analysis.post_order_visit(func.body, visit)
    return calls
