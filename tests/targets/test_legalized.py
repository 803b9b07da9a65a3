"""The default schedule of what TVM's own lowering makes of Relax operators: results as before."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from targets.target import find

F, B, INT = "float32", "bool", "int64"
op, nn = relax.op, relax.op.nn

OPERATORS = {
    "add": (lambda a, b: op.add(a, b), ((2, 13, 64), F), ((64,), F)),
    "exp": (lambda a: op.exp(a), ((3, 37), F)),
    "erf": (lambda a: op.erf(a), ((3, 64), F)),
    "power": (lambda a: op.power(a, relax.const(2.0, F)), ((3, 64), F)),
    "log softmax": (lambda a: nn.log_softmax(a, -1), ((2, 3, 48), F)),
    "softmax": (lambda a: nn.softmax(a, 1), ((2, 3, 48), F)),
    "layer norm": (
        lambda a, g, b: nn.layer_norm(a, g, b, axes=[-1]),
        ((2, 13, 64), F),
        ((64,), F),
        ((64,), F),
    ),
    "transpose": (lambda a: op.permute_dims(a, [0, 2, 1]), ((2, 13, 64), F)),
    "reshape": (lambda a: op.reshape(a, (2, 13, 4, 16)), ((2, 13, 64), F)),
    "concat": (lambda a, b: op.concat([a, b], axis=1), ((2, 13, 64), F), ((2, 5, 64), F)),
    "split": (lambda a: op.split(a, 3, axis=-1)[1], ((2, 13, 96), F)),
    "take rows": (lambda a, i: op.take(a, i, axis=0), ((50, 64), F), ((2, 13), INT)),
    "take columns": (lambda a, i: op.take(a, i, axis=1), ((2, 50, 3), F), ((7,), "int32")),
    "where": (lambda c, a, b: op.where(c, a, b), ((2, 64), B), ((2, 64), F), ((64,), F)),
    "mean over tokens": (lambda a: op.mean(a, axis=1), ((2, 13, 64), F)),
    "largest": (lambda a: op.max(a, axis=-1, keepdims=True), ((200, 3, 64), F)),
    "argmax": (lambda a: op.argmax(a, axis=-1), ((2, 13, 64), F)),
    "matmul": (lambda a, b: op.matmul(a, b), ((2, 13, 64), F), ((64, 96), F)),
    "batched matmul": (lambda a, b: op.matmul(a, b), ((2, 3, 13, 20), F), ((2, 3, 20, 13), F)),
    "conv2d": (
        lambda a, w: nn.conv2d(a, w, padding=(1, 1)),
        ((1, 3, 16, 16), F),
        ((8, 3, 3, 3), F),
    ),
    "max pool": (lambda a: nn.max_pool2d(a, (2, 2), strides=(2, 2)), ((1, 3, 16, 16), F)),
    "pad": (lambda a: nn.pad(a, (0, 0, 1, 1)), ((3, 64), F)),
    "cast": (lambda a: op.astype(a, INT), ((3, 64), F)),
    "compare": (lambda a, b: op.less(a, b), ((3, 64), F), ((3, 64), F)),
    "and": (lambda a, b: op.logical_and(a, b), ((3, 64), B), ((3, 64), B)),
    "tril": (lambda a: op.tril(a, 0), ((64, 64), F)),
    "integer remainder": (lambda a, b: op.floor_mod(a, b), ((3, 64), INT), ((3, 64), INT)),
    "half precision": (lambda a: op.astype(op.add(a, a), F), ((3, 64), "float16")),
    "scatter": (
        lambda a, i, u: op.scatter_elements(a, i, u, axis=1),
        ((3, 64), F),
        ((3, 4), INT),
        ((3, 4), F),
    ),
    "gather": (lambda a, i: op.gather_nd(a, i), ((5, 6, 16), F), ((4, 2), INT)),
    "much": (lambda a: op.multiply(a, a), ((2, 128, 384), F)),
}


def legalized(name: str) -> list[tirx.PrimFunc]:
    """The kernels that TVM makes of one operator."""
    function, *parameters = OPERATORS[name]
    inputs = [relax.Var(f"p{i}", relax.TensorType(s, d)) for i, (s, d) in enumerate(parameters)]
    builder = relax.BlockBuilder()
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.emit_output(function(*inputs))
        builder.emit_func_output(result)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    mod = tvm.transform.Sequential(passes)(builder.get())
    return [f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)]


def arguments(func: tirx.PrimFunc) -> list[np.ndarray]:
    """Values for all inputs; integers are small enough to be indices."""
    rng = np.random.default_rng(0)
    made = []
    for p in list(func.params)[:-1]:
        shape, dtype = [int(d) for d in p.shape], str(p.dtype)
        if dtype == B:
            made.append(rng.random(shape) < 0.5)
        elif dtype.startswith("int"):
            made.append(rng.integers(1, 4, shape).astype(dtype))
        else:
            made.append(np.asarray(rng.standard_normal(shape), dtype))
    return made


def unscheduled(func: tirx.PrimFunc, inputs: list[np.ndarray]) -> np.ndarray:
    """What the function computes as TVM made it."""
    out = func.params[-1]
    result = tvm.runtime.tensor(np.zeros([int(d) for d in out.shape], str(out.dtype)))
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    kernel = tvm.compile(mod, target=find("host").tvm())["main"]
    kernel(*(tvm.runtime.tensor(v) for v in inputs), result)
    return result.numpy()


@pytest.mark.parametrize("name", OPERATORS)
def test_results_stay(compiled, name):
    functions = legalized(name)
    assert functions
    for func in functions:
        inputs = arguments(func)
        wanted = unscheduled(func, inputs)
        for target in (find("host"), find("host", 2)):
            (got,) = compiled(func, target)(inputs)
            assert got.dtype == wanted.dtype
            if got.dtype.kind == "f":  # sums may be in another order
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(got, wanted)
