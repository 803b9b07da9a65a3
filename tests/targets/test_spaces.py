"""Spaces: found by the mark on the anchor, never empty, replayable from the trace."""

from __future__ import annotations

import pytest
import tvm
from tvm import s_tir, te, topi

from targets.kernels.attention import attention, attention_short
from targets.kernels.attention_int8 import attention_int8
from targets.kernels.conv import conv
from targets.kernels.conv_bf16 import conv_bf16
from targets.kernels.conv_depthwise import conv_depthwise
from targets.kernels.conv_fp16 import conv_fp16
from targets.kernels.conv_pattern import conv_pattern
from targets.kernels.conv_sparse import conv_sparse
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear import dense
from targets.kernels.linear_bf16 import dense_bf16
from targets.kernels.linear_fp16 import dense_fp16
from targets.kernels.linear_int8 import dense_int8
from targets.kernels.linear_sparse import sparse
from targets.kernels.linear_sparse_int8 import sparse_int8
from targets.kernels.linear_weight_only import Codes, weight_only
from targets.kernels.norm import layer_norm
from targets.kernels.primfunc import dims, prim_func
from targets.kernels.quantize import quantize_rows
from targets.kernels.softmax import softmax
from targets.kernels.spaces import DEFAULT, schedules, space_name
from targets.kernels.window import Window
from targets.target import KNOWN, find

WINDOW = Window(8, 13, 24, (3, 3), padding=(1, 1, 1, 1))


def kernels(nb):
    """One kernel of every family, and of what has other stages."""
    lead = (1, 13)
    return {
        "linear": with_epilogue(dense(lead, 24, 50, nb), bias=True, activation="gelu"),
        "linear_bf16": with_epilogue(dense_bf16(lead, 24, 50, nb), bias=True),
        "linear_fp16": with_epilogue(dense_fp16(lead, 192, 50, nb), bias=True),
        "linear_int8": dense_int8(lead, 24, 50, nb),
        "linear_sparse": sparse(lead, 24, 50, nb, 6),
        "linear_sparse_int8": with_epilogue(sparse_int8(lead, 24, 50, nb, 3), residual=True),
        "linear_weight_only": with_epilogue(
            weight_only(lead, 24, 6 * nb - 3, nb, Codes(4, 8, False)), bias=True
        ),
        "conv": with_epilogue(conv(2, WINDOW, 50, nb), bias=True, activation="silu"),
        "conv_bf16": with_epilogue(conv_bf16(2, WINDOW, 50, nb), bias=True),
        "conv_fp16": with_epilogue(conv_fp16(2, WINDOW, 50, nb), residual=True),
        "conv_depthwise": with_epilogue(conv_depthwise(2, WINDOW), bias=True, activation="relu"),
        "conv_pattern": with_epilogue(conv_pattern(2, WINDOW, 50, 7, 3, 4), bias=True),
        "conv_sparse": with_epilogue(conv_sparse(2, WINDOW, 50, nb, 7), residual=True),
        "quantize": quantize_rows(lead, 256),
        "layer_norm": layer_norm((*lead, 256), 1e-5),
        "softmax": softmax((*lead, 256)),
        "attention": attention(1, 13, 2, 16, (1, 1, 1, 13), 0.25),
        "attention, short": attention_short(1, 13, 2, 16, (1, 1, 1, 13), 0.25),
        "attention_int8": attention_int8(1, 13, 2, 16, (1, 1, 1, 13), 0.25),
    }


FAMILIES = list(kernels(16))
ROW_FAMILIES = ("quantize", "layer_norm", "softmax")


TARGETS = [
    "x86-64-v2", "x86-64-v3", "x86-64-v4", "alderlake", "znver4", "sapphirerapids",
    "aarch64-dotprod", *(pytest.param(n, marks=pytest.mark.slow) for n in ("aarch64", "aarch64-i8mm")),
]  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_space_on_every_target(caplog, family, name, threads):
    target = find(name, threads)
    func = kernels(target.block)[family]
    assert space_name(func) == family.partition(",")[0]
    found = schedules(func, target)
    assert found
    assert not caplog.records, "a schedule was refused"
    scripts = {sch.mod.script() for sch in found}
    assert len(scripts) == len(found), "a schedule was made twice"
    parallel = ["T.parallel" in sch.mod.script() for sch in found]
    if threads > 1 and family in ROW_FAMILIES:  # small ones may be faster on one thread
        assert parallel == [False, True] * (len(found) // 2)
    else:
        assert parallel == [threads > 1] * len(found)
    assert all("T.vectorized" in s or "vpdpbusd" in s or "dot.v4i32" in s for s in scripts)


@pytest.mark.parametrize("name", ["znver4", "sapphirerapids"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_function_stays_and_the_trace_gives_the_schedule_again(family, name):
    target = find(name)
    func = kernels(target.block)[family]
    before = func.script()
    first = schedules(func, target)[0]
    assert func.script() == before
    copy = s_tir.renew_defs(func.with_attr("global_symbol", "main"))
    again = s_tir.Schedule(tvm.IRModule({"main": copy}))
    s_tir.schedule.Trace.apply_json_to_schedule(first.trace.as_json(), again)
    tvm.ir.assert_structural_equal(again.mod["main"], first.mod["main"])


def test_many_rows_are_shared_among_threads_first():
    func = quantize_rows((2048,), 256)
    found = ["T.parallel" in sch.mod.script() for sch in schedules(func, find("znver4", 2))]
    assert found == [True, False] * (len(found) // 2)
    alone = ["T.parallel" in sch.mod.script() for sch in schedules(func, find("znver4", 1))]
    assert not any(alone)


def test_any_other_function_has_the_default_space():
    x = te.placeholder(dims(3, 5), "float32", name="x")
    func = prim_func([x, topi.negative(x)])
    assert space_name(func) == DEFAULT
    assert len(schedules(func, find("x86-64-v3"))) == 1


def test_every_known_target_can_be_used():
    for target in KNOWN.values():
        assert schedules(dense((3,), 8, 8, target.block), target)
