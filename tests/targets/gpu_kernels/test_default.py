"""What no space covers runs on GPUs all the same: TVM's operators, loops written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import te, tirx, topi

from targets.errors import TargetError
from targets.gpu_kernels.bound import is_bound
from targets.gpu_kernels.default import default_schedule, single_item
from targets.kernels.blocks import flow, new_schedule
from targets.kernels.merge_tokens import merge_reference, merge_tokens
from targets.kernels.primfunc import dims, f32, prim_func
from targets.kernels.spaces import schedules
from targets.opencl_program import program

SHAPE = (3, 7, 20)


def holder(dtype="float32", shape=SHAPE):
    return te.placeholder(dims(*shape), dtype, name="x")


def pooled(kind):
    return lambda x: topi.nn.pool2d(x, [3, 3], [2, 2], [1, 1], [1, 1, 1, 1], kind, layout="NHWC")


UNARY = [
    "exp",
    "log",
    "tanh",
    "erf",
    "sqrt",
    "rsqrt",
    "sigmoid",
    "sin",
    "cos",
    "tan",
    "atan",
    "floor",
    "round",
]
OTHERS = {
    "sum of rows": (lambda x: topi.sum(x, axis=-1), lambda x: x.sum(-1)),
    "sum of columns": (lambda x: topi.sum(x, axis=0), lambda x: x.sum(0)),
    "largest of all": (lambda x: topi.max(x), lambda x: x.max()),
    "argmax": (lambda x: topi.argmax(x, axis=1), lambda x: x.argmax(1)),
    "transpose": (lambda x: topi.transpose(x, [2, 0, 1]), lambda x: x.transpose(2, 0, 1)),
    "concatenate": (lambda x: topi.concatenate([x, x], 1), lambda x: np.concatenate([x, x], 1)),
    "comparison": (lambda x: topi.greater(x, f32(0.3)), lambda x: x > np.float32(0.3)),
    "cast": (lambda x: topi.cast(x, "int8"), lambda x: x.astype(np.int8)),
}


@pytest.mark.parametrize("name", UNARY)
def test_functions_have_the_names_of_opencl(run_gpu, close, gpu, name):
    from scipy import special

    x = holder()
    func = prim_func([x, getattr(topi, name)(x)])
    value = np.random.default_rng(0).uniform(0.1, 2, SHAPE).astype(np.float32)
    exact = {
        "erf": special.erf,
        "rsqrt": lambda v: 1 / np.sqrt(v),
        "sigmoid": special.expit,
        "atan": np.arctan,
    }
    for (y,) in run_gpu(func, gpu, [value]):
        close(y, exact.get(name, getattr(np, name, None))(value.astype(np.float64)))


@pytest.mark.parametrize("name", OTHERS)
def test_other_operators(run_gpu, gpu, name):
    make, wanted = OTHERS[name]
    x = holder()
    value = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    for (y,) in run_gpu(prim_func([x, make(x)]), gpu, [value]):
        np.testing.assert_allclose(y, wanted(value), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling(run_gpu, gpu, kind):
    import torch

    shape = (2, 9, 11, 5)
    x = holder(shape=shape)
    value = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    image = torch.from_numpy(value).permute(0, 3, 1, 2)
    if kind == "max":
        wanted = torch.nn.functional.max_pool2d(image, 3, 2, 1)
    else:
        wanted = torch.nn.functional.avg_pool2d(image, 3, 2, 1)
    for (y,) in run_gpu(prim_func([x, pooled(kind)(x)]), gpu, [value]):
        np.testing.assert_allclose(y, wanted.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-6)


def test_truth_of_any_integer(run_gpu, gpu):
    q, x = holder("int64"), holder()
    chosen = te.compute(
        dims(*SHAPE), lambda *i: tirx.Select(q[i].astype("bool"), x[i], f32(2)), name="y"
    )
    rng = np.random.default_rng(2)
    numbers = rng.choice(np.array([0, 1, -1, 1 << 31, 1 << 40]), SHAPE)
    value = rng.standard_normal(SHAPE).astype(np.float32)
    for (y,) in run_gpu(prim_func([q, x, chosen]), gpu, [numbers, value]):
        np.testing.assert_array_equal(y, np.where(numbers != 0, value, 2))


def test_elementwise_work_is_one_kernel(gpu):
    x = holder()
    func = prim_func([x, topi.add(topi.multiply(x, x), topi.exp(x))])
    assert len(program(schedules(func, gpu)[0], gpu).launches) == 1


def test_loops_written_by_hand_run_on_one_work_item(run_gpu, close, gpu):
    batch, seq, keep, width = 2, 13, 7, 24
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, seq, width)).astype(np.float32)
    bias = np.zeros((batch, 1, 1, seq), np.float32)
    bias[0, ..., 10:] = -1e9
    size = np.ones((batch, seq), np.float32)
    func = merge_tokens(batch, seq, keep, width, gpu.lanes)
    for y, new_bias, new_size, place in run_gpu(func, gpu, [x, bias, size]):
        for n in range(batch):
            wanted = merge_reference(x[n].astype(np.float64), bias[n, 0, 0], size[n], keep)
            close(y[n], wanted.y)
            np.testing.assert_allclose(new_size[n], wanted.size)
            real = bias[n, 0, 0] == 0
            np.testing.assert_array_equal(place[n][real], wanted.place[real])
            np.testing.assert_allclose(new_bias[n, 0, 0], wanted.bias, rtol=1e-5, atol=1e-6)


def test_what_is_bound_already_stays_as_it_is(gpu):
    func = single_item(prim_func([x := holder(), topi.negative(x)]))
    assert is_bound(func)
    assert "thread_binding" in default_schedule(func, gpu).mod.script()


def test_a_store_outside_of_work_items_is_seen(gpu):
    x = holder()
    func = prim_func([x, topi.add(topi.sum(x, axis=-1, keepdims=True), x)])
    assert not is_bound(func)
    half = new_schedule(func)
    first, *_ = flow(half)
    half.bind(half.get_loops(first.block)[0], "blockIdx.x")
    assert not is_bound(half.mod["main"])
    assert is_bound(schedules(func, gpu)[0].mod["main"])
    with pytest.raises(TargetError, match="not bound to work items"):
        program(half, gpu)
