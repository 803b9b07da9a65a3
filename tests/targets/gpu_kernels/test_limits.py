"""Every schedule of every family stays within what a GPU has, whatever the shape; nothing is run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import s_tir

from targets.gpu_kernels.bound import is_bound
from targets.gpu_kernels.group import across_and_down
from targets.gpus import GENERIC
from targets.kernels.attention import attention_gpu
from targets.kernels.linear import dense
from targets.kernels.merge_tokens import merge_tokens
from targets.kernels.softmax import softmax
from targets.kernels.spaces import schedules, space_name
from targets.opencl_program import excesses, program
from targets.target import find
from tests.targets.test_spaces import FAMILIES, kernels

HAND_WRITTEN = "merge_tokens"
NAMES = [n if n == "mali" else pytest.param(n, marks=pytest.mark.slow) for n in GENERIC]


def made(family, target):
    if family == HAND_WRITTEN:
        return merge_tokens(2, 13, 7, 24, target.lanes)
    return kernels(target.block)[family]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", [*FAMILIES, HAND_WRITTEN])
def test_every_family_is_bound_to_work_items_within_the_limits(caplog, family, name):
    target = find(name)
    func = made(family, target)
    assert space_name(func) == family.partition(",")[0]
    found = schedules(func, target)
    assert found
    assert not caplog.records, "a schedule was refused"
    scripts = {sch.mod.script() for sch in found}
    assert len(scripts) == len(found), "a schedule was made twice"
    for sch in found:
        assert is_bound(sch.mod["main"])
        assert "T.parallel" not in sch.mod.script()
    for sch in {id(s): s for s in (found[0], found[-1])}.values():
        code = program(sch, target)
        assert code.launches
        assert excesses(code, target) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trace_gives_the_schedule_again(family):
    target = find("adreno")
    func = kernels(target.block)[family]
    first = schedules(func, target)[0]
    copy = s_tir.renew_defs(func.with_attr("global_symbol", "main"))
    again = s_tir.Schedule(tvm.IRModule({"main": copy}))
    s_tir.schedule.Trace.apply_json_to_schedule(first.trace.as_json(), again)
    tvm.ir.assert_structural_equal(again.mod["main"], first.mod["main"])


@given(
    blocks=st.integers(1, 3000), rows=st.integers(1, 5000), most=st.sampled_from([32, 64, 128, 512])
)
def test_groups_cover_all_tiles_and_no_group_is_too_large(blocks, rows, most):
    adreno = find("adreno")
    target = replace(adreno, gpu=replace(adreno.gpu, max_threads=most))
    shapes = across_and_down(blocks, rows, target)
    assert shapes
    assert all(1 <= a * d <= most for a, d in shapes)


@settings(max_examples=5, deadline=None)
@given(
    rows=st.integers(1, 200),
    k=st.integers(1, 70),
    n=st.integers(1, 300),
    most=st.sampled_from([32, 256]),
)
def test_products_of_any_shape_fit_a_small_gpu(rows, k, n, most):
    mali = find("mali")
    small = replace(mali, gpu=replace(mali.gpu, max_threads=most, local_bytes=4096))
    for sch in schedules(dense((rows,), k, n, small.block), small):
        assert excesses(program(sch, small), small) == []


@settings(max_examples=5, deadline=None)
@given(width=st.integers(1, 3000), rows=st.integers(1, 5))
def test_rows_of_any_length_fit_little_local_memory(width, rows):
    mali = find("mali")
    small = replace(mali, gpu=replace(mali.gpu, max_threads=64, local_bytes=4096))
    for sch in schedules(softmax((rows, width)), small):
        assert excesses(program(sch, small), small) == []


@settings(max_examples=3, deadline=None)
@given(seq=st.integers(1, 80), dim=st.sampled_from([8, 20, 32, 64]), heads=st.integers(1, 3))
def test_attention_of_any_length_fits(seq, dim, heads):
    mali = find("mali")
    for sch in schedules(attention_gpu(1, seq, heads, dim, None, 0.25), mali):
        code = program(sch, mali)
        assert excesses(code, mali) == []
        assert len(code.launches) == 4
        assert math.prod(code.launches[0].items) > 0
