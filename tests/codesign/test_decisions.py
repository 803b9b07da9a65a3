"""Decisions are the same where only threads or instructions of the target differ, and tell tiles apart."""

from __future__ import annotations

import pytest
import tvm
from tvm import te
from tvm.s_tir import Schedule

from codesign.decisions import decisions
from codesign.kernels import kernel_hash
from targets.kernels import spaces
from targets.kernels.linear import dense
from targets.kernels.linear_int8 import dense_int8
from targets.target import KNOWN

ARM, DOT, I8MM = (KNOWN[name] for name in ("aarch64", "aarch64-dotprod", "aarch64-i8mm"))
ZEN = KNOWN["znver5"]


def seen(func, target):
    """hash -> decisions of the space."""
    every = spaces.schedules(func, target)
    return {kernel_hash(s.mod["main"]): decisions(s) for s in every}


@pytest.mark.parametrize(
    ("func", "one", "other"),
    [
        (dense([2, 33], 96, 64, 8), ARM, ARM.with_threads(2)),
        (dense_int8([2, 33], 96, 64, 8), DOT, DOT.with_threads(4)),
        (dense_int8([2, 33], 96, 64, 32), ZEN, ZEN.with_threads(2)),
    ],
)
def test_threads_change_the_code_and_not_the_decisions(func, one, other):
    first, second = seen(func, one), seen(func, other)
    assert not first.keys() & second.keys()
    assert set(first.values()) == set(second.values())


def test_the_targets_instruction_is_no_decision():
    func = dense_int8([2, 33], 96, 64, 8)
    first, second = seen(func, DOT), seen(func, I8MM)
    assert not first.keys() & second.keys()
    assert len(set(first.values()) & set(second.values())) >= 3


@pytest.mark.parametrize("target", [ARM, DOT, ZEN])
def test_different_schedules_have_different_decisions(target):
    found = seen(dense([33], 96, 64, target.block), target)
    assert len(set(found.values())) == len(found) > 3


def test_they_are_the_same_at_every_call():
    func = dense([2, 33], 96, 64, 8)
    assert seen(func, ARM) == seen(func, ARM)


def test_a_schedule_of_any_other_space():
    x = te.placeholder((32,), name="x")
    func = te.create_prim_func([x, te.compute((32,), lambda i: x[i] + 1.0, name="y")])

    def made(factor):
        sch = Schedule(tvm.IRModule({"main": func}))
        (i,) = sch.get_loops(sch.get_sblock("y"))
        sch.split(i, [None, factor])
        return decisions(sch)

    assert made(4) == made(4) != made(8)
