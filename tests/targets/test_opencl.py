"""OpenCL targets: what TVM is told of them, and what its code generator is helped with."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import te, tirx

from targets.errors import TargetError
from targets.gpus import GENERIC
from targets.kernels.primfunc import dims, f32, prim_func
from targets.kernels.spaces import schedules
from targets.opencl import opencl_target, printed_exactly
from targets.opencl_program import in_float32, local_memory, program
from targets.pocl import lacking, run_program
from targets.target import find


def over(value, shape=(3, 8), dtype="float32", name="x"):
    x = te.placeholder(dims(*shape), dtype, name=name)
    return prim_func([x, te.compute(dims(*shape), lambda *i: value(x[i]), name="y")])


def source(func, target="adreno"):
    return program(schedules(func, find(target))[0], find(target)).source


@pytest.mark.parametrize("name", ["adreno", "mali"])
def test_a_phone_has_device_code_in_opencl_and_host_code_for_its_processor(name):
    target = find(name)
    made = target.tvm()
    assert made.kind.name == "opencl"
    assert made.host.kind.name == "llvm"
    assert made.host.attrs["mtriple"] == "aarch64-linux-android"
    assert int(made.attrs["max_num_threads"]) == target.gpu.max_threads
    assert target.block == 8
    assert target.lanes == 4


def test_any_other_device_has_this_kind_of_host():
    target = find("opencl")
    assert target.architecture == "x86_64"
    assert "mtriple" not in target.tvm().host.attrs  # LLVM's own: the machine that compiles


def test_a_gpu_target_offers_what_the_gpu_has_not_its_host():
    phone = replace(find("adreno"), features=frozenset({"neon", "fullfp16", "dotprod", "i8mm"}))
    assert phone.dot == ""
    assert phone.has_fp16
    assert not phone.has_bf16
    weak = replace(phone, gpu=replace(phone.gpu, fp16=False))
    assert not weak.has_fp16
    assert replace(phone, gpu=None).dot == "usdot"


def test_opencl_needs_a_gpu():
    with pytest.raises(TargetError, match="without a GPU"):
        opencl_target(replace(find("x86-64-v3"), kind="opencl"))


def test_vulkan_is_refused_with_what_is_missing():
    with pytest.raises(TargetError) as error:
        find("vulkan")
    text = str(error.value)
    assert "SPIR-V" in text
    assert all(name in text for name in GENERIC)
    assert "--target adreno" in text


def test_a_misspelt_gpu_is_found():
    with pytest.raises(TargetError, match="--target adreno"):
        find("adrenno")


@given(st.floats(width=32, allow_nan=False))
def test_constants_are_printed_exactly_or_given_by_their_bits(value):
    if printed_exactly(value):
        assert np.float32(f"{np.float32(value):e}") == np.float32(value)
    else:
        assert np.float32(f"{np.float32(value):e}") != np.float32(value)


def test_a_constant_of_eight_digits_reaches_the_kernel():
    shift = 1.5 * 2.0**23
    code = source(over(lambda v: v + f32(shift)))
    assert "as_float(1262485504)" in code
    assert "1.258291e+07" not in code
    assert "5.000000e-01f" in source(over(lambda v: v + f32(0.5)))


def test_the_lowest_float_stays_what_a_maximum_starts_from():
    x = te.placeholder(dims(2, 300), "float32", name="x")
    a = te.reduce_axis((tirx.IntImm("int64", 0), tirx.IntImm("int64", 300)), name="a")
    func = prim_func([x, te.compute(dims(2), lambda i: te.max(x[i, a], axis=a), name="y")])
    bits = int(np.float32(np.finfo(np.float32).min).view(np.int32))
    assert f"as_float({bits})" in source(func)


@pytest.mark.parametrize("name", ["layer.0/query+key", "0.weight", "x-y"])
def test_names_of_weights_become_names_of_c(name):
    code = source(over(lambda v: -v, name=name))
    assert name not in code
    (parameter,) = set(re.findall(r"restrict (\w*v0_\w*)", code))
    assert re.fullmatch(r"v0_(layer_0_query_key|0_weight|x_y)_ptr", parameter)


def test_bits_are_reinterpreted_in_vectors():
    twice = over(lambda v: tirx.reinterpret("float32", tirx.reinterpret("int32", v) + 0x800000))
    code = source(twice)
    assert "as_float4(" in code
    assert "as_int4(" in code
    assert "(*(" not in code


def test_exponentials_have_a_name():
    code = source(over(tirx.exp))
    assert " exp(" in code.replace("(exp(", " exp(").replace("vstore4", "")
    assert ".exp" not in code


def test_a_program_tells_memory_groups_and_local_memory():
    from targets.kernels.softmax import softmax

    target = find("adreno")
    made = program(schedules(softmax((5, 256)), target)[0], target)
    assert [a.shape for a in made.arrays[: made.arguments]] == [(5, 256), (5, 256)]
    (launch,) = made.launches
    assert launch.groups == (5, 1, 1)
    assert launch.items == (64, 1, 1)
    assert launch.local_bytes == local_memory(made.source)[launch.kernel] > 1024
    text = "// Function: k\n__local float4 a[8];\n  __local half b[3];\n__local uchar c[5];\n"
    assert local_memory(text) == {"k": 128 + 6 + 5}


def test_float16_may_be_run_in_float32():
    func = over(lambda v: v * tirx.FloatImm("float16", 0.5), dtype="float16")
    made = in_float32(program(schedules(func, find("mali"))[0], find("mali")))
    assert "half" not in made.source
    assert {a.dtype for a in made.arrays} == {"float32"}
    if (absent := lacking()) is not None:
        pytest.skip(absent)
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    np.testing.assert_array_equal(run_program(made, [x])[0], x / 2)


def test_the_runner_sees_what_a_kernel_must_not_do():
    if (absent := lacking()) is not None:
        pytest.skip(absent)
    target = find("adreno")
    made = program(schedules(over(lambda v: -v), target)[0], target)
    x = np.ones((3, 8), np.float32)
    np.testing.assert_array_equal(run_program(made, [x])[0], -x)
    with pytest.raises(ValueError, match="argument 0"):
        run_program(made, [x[:2]])
    output = made.arrays[1].name
    assert "y_ptr + (" in made.source or "y_ptr[" in made.source
    beyond = replace(made, source=made.source.replace("0, y_ptr + (", "0, y_ptr + 8 + ("))
    assert beyond.source != made.source
    with pytest.raises(AssertionError, match=f"behind {output}"):
        run_program(beyond, [x])
    swapped = replace(made, source=made.source.replace("0, y_ptr + (", "0, x_ptr + ("))
    with pytest.raises(AssertionError, match="x"):
        run_program(swapped, [x])


def test_what_the_host_computes_itself_is_told():
    """TVM's own prefix sums start kernels in a loop of the host; they are built, but no `Program`."""
    from tvm import relax

    x = relax.Var("x", relax.TensorType([2, 7, 20], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.cumsum(x, axis=1)))
    target = find("adreno")
    with target.tvm():
        mod = relax.backend.DispatchSortScan()(builder.get())
    func = next(f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))
    with pytest.raises(TypeError, match=r"the host does more|takes more than arrays"):
        program(schedules(func, target)[0], target)
