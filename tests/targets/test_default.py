"""The schedule of everything else: the same results, and vectors and threads where they pay."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import te, tirx, topi

from targets.kernels.default import default_schedule
from targets.kernels.primfunc import dims, prim_func
from targets.target import find


def made(shape, function):
    x = te.placeholder(dims(*shape), "float32", name="x")
    return prim_func([x, function(x)])


FUNCTIONS = {
    "chain": (
        lambda x: topi.add(
            topi.multiply(x, tirx.const(2.0, "float32")), tirx.const(1.0, "float32")
        ),
        lambda x: 2 * x + 1,
    ),
    "transpose": (lambda x: topi.transpose(x, (1, 0)), lambda x: x.T),
    "row sum": (lambda x: topi.sum(x, axis=1), lambda x: x.sum(1)),
    "row max": (lambda x: topi.max(x, axis=1), lambda x: x.max(1)),
    "column sum": (lambda x: topi.sum(x, axis=0), lambda x: x.sum(0)),
    "sum of all": (lambda x: topi.sum(x), lambda x: x.sum()),
    "mean of squares": (
        lambda x: topi.divide(
            topi.sum(topi.multiply(x, x), axis=1, keepdims=True), tirx.const(3.0, "float32")
        ),
        lambda x: (x * x).sum(1, keepdims=True) / 3,
    ),
    "softmax": (
        lambda x: topi.nn.softmax(x, axis=-1),
        lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    ),
    "slice": (
        lambda x: topi.strided_slice(x, [0, 1], [1000, 1000], [2, 1]),
        lambda x: x[::2, 1:],
    ),
}


@pytest.mark.parametrize("shape", [(13, 67), (130, 256)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results(run, close, target, name, shape):
    build, exact = FUNCTIONS[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for (y,) in run(made(shape, build), target, [x]):
        close(y, np.asarray(exact(x.astype(np.float64))), 5e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_with_threads(run, close, name):
    build, exact = FUNCTIONS[name]
    x = np.random.default_rng(0).standard_normal((130, 256)).astype(np.float32)
    for (y,) in run(made((130, 256), build), find("host", 2), [x]):
        close(y, np.asarray(exact(x.astype(np.float64))), 5e-6)


def test_vectors_always_threads_only_for_enough_work():
    build = FUNCTIONS["chain"][0]
    small, large = made((4, 64), build), made((256, 256), build)
    one, two = find("x86-64-v3"), find("x86-64-v3", 2)
    assert "T.vectorized" in default_schedule(small, one).mod.script()
    assert "T.parallel" not in default_schedule(large, one).mod.script()
    assert "T.parallel" not in default_schedule(small, two).mod.script()
    assert "T.parallel" in default_schedule(large, two).mod.script()
