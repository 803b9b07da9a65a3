"""Kernels of a lowered model: listed once each, counted, scheduled in place."""

from __future__ import annotations

import pytest
import tvm
from tvm.s_tir import Schedule

from codesign.kernels import anonymous, kernel_hash, kernels, prim_funcs, schedule
from passes.lower import lower
from targets.target import find


@pytest.fixture(scope="module")
def lowered(encoder):
    return lower(encoder(layers=2).model, find("host"))


def test_counts_are_calls(lowered):
    counts = {k.name: k.count for k in kernels(lowered)}
    assert counts["attention"] == 2
    assert counts["layer_norm"] == 5
    assert sum(k.count for k in kernels(lowered)) == str(lowered.main).count("R.call_tir(")


def test_hash_ignores_the_name_and_nothing_else(lowered):
    first, second = kernels(lowered)[:2]
    assert kernel_hash(first.func.with_attr("global_symbol", "x")) == first.hash
    assert len(first.hash) == 16
    assert first.hash != second.hash


def test_equal_kernels_of_two_models_share_a_hash(encoder, lowered):
    other = lower(encoder(layers=1).model, find("host"))
    assert {k.hash for k in kernels(other)} == {k.hash for k in kernels(lowered)}


def test_schedule_asks_once_for_each_kernel_and_puts_its_choice_in_place(lowered):
    asked = []

    def choose(func):
        asked.append(kernel_hash(func))
        marked = Schedule(func.with_attr("mark", len(asked)))
        return marked if len(asked) % 2 else marked.mod["main"]

    module = schedule(lowered, choose)
    assert sorted(asked) == sorted(k.hash for k in kernels(lowered))
    scheduled = prim_funcs(module)
    assert {gv.name_hint for gv in scheduled} == {gv.name_hint for gv in prim_funcs(lowered.mod)}
    for gv, func in scheduled.items():
        assert "global_symbol" not in func.attrs
        assert asked[int(func.attrs["mark"]) - 1] == kernel_hash(lowered.mod[gv.name_hint])
    tvm.ir.assert_structural_equal(module["main"], lowered.main, map_free_vars=True)


def test_anonymous_keeps_a_nameless_function(lowered):
    func = kernels(lowered)[0].func
    assert anonymous(func).same_as(func)
