"""int8 products: exact integer sums, at odd sizes and with the most extreme codes."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_int8 import dense_int8, pack_int8, static_int8, static_shift
from targets.target import find

CASES = [((1,), 30, 35), ((13,), 67, 50), ((2, 17), 52, 100), ((130,), 33, 17)]


def arrays(lead, k, n, seed=0):
    """(q with padding of arbitrary codes, zero, weights)."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 256, (*lead, -(-k // 4) * 4)).astype(np.uint8)
    zero = rng.integers(0, 256, lead).astype(np.int32)
    return q, zero, rng.integers(-127, 128, (n, k)).astype(np.int8)


def exact(q, zero, w):
    """The integer result."""
    k = w.shape[1]
    return (q[..., :k].astype(np.int64) - zero[..., None]) @ w.T.astype(np.int64)


def arguments(q, zero, w, nb):
    """Arguments with scales of 1, so that the integers are seen as they are (below 2^24)."""
    packed, wsum = pack_int8(w, nb)
    return [q, np.ones(zero.shape, np.float32), zero, packed, np.ones(len(w), np.float32), wsum]


@pytest.mark.parametrize(("lead", "k", "n"), CASES)
def test_dense_int8_is_exact(run, target, lead, k, n):
    q, zero, w = arrays(lead, k, n)
    func = dense_int8(lead, k, n, target.block)
    for (y,) in run(func, target, arguments(q, zero, w, target.block)):
        np.testing.assert_array_equal(y, exact(q, zero, w))


def test_exact_with_threads(run, threaded):
    q, zero, w = arrays((2, 17), 50, 70)
    func = dense_int8((2, 17), 50, 70, threaded.block)
    for (y,) in run(func, threaded, arguments(q, zero, w, threaded.block)):
        np.testing.assert_array_equal(y, exact(q, zero, w))


def test_every_schedule(run, target):
    q, zero, w = arrays((13,), 67, 50)
    func = dense_int8((13,), 67, 50, target.block)
    args = arguments(q, zero, w, target.block)
    results = [y for (y,) in run(func, target, args, every=True)]
    assert len(results) >= 4
    for y in results:
        np.testing.assert_array_equal(y, exact(q, zero, w))


@pytest.mark.parametrize("weight", [-127, 127, -128])
def test_nothing_saturates(compiled, target, weight):
    k, n = 64, 33  # 64 * 255 * 128 is below 2^24, so float32 shows every unit
    q = np.full((5, k), 255, np.uint8)
    w = np.full((n, k), weight, np.int8)
    zero = np.array([0, 255, 1, 254, 128], np.int32)
    kernel = compiled(dense_int8((5,), k, n, target.block), target)
    y = kernel(arguments(q, zero, w, target.block))[0]
    np.testing.assert_array_equal(y, exact(q, zero, w))
    q[:, ::2] = 0
    w[:, ::3] *= -1
    y = kernel(arguments(q, zero, w, target.block))[0]
    np.testing.assert_array_equal(y, exact(q, zero, w))


def test_long_sums_stay_in_32_bits(compiled, target):
    k, n = 3072, 3
    q, w = np.full((2, k), 255, np.uint8), np.full((n, k), -127, np.int8)
    zero = np.zeros(2, np.int32)
    y = compiled(dense_int8((2,), k, n, target.block), target)(arguments(q, zero, w, target.block))[
        0
    ]
    np.testing.assert_array_equal(y, np.float32(-127 * 255 * k))


def test_scales_bias_and_residual(run, close, target):
    lead, k, n = (2, 13), 37, 50
    q, zero, w = arrays(lead, k, n)
    rng = np.random.default_rng(1)
    scale = rng.uniform(1e-3, 1e-1, lead).astype(np.float32)
    wscale = rng.uniform(1e-4, 1e-2, n).astype(np.float32)
    bias, residual = (rng.standard_normal(s).astype(np.float32) for s in ((n,), (*lead, n)))
    packed, wsum = pack_int8(w, target.block)
    func = with_epilogue(dense_int8(lead, k, n, target.block), bias=True, residual=True)
    wanted = exact(q, zero, w) * (scale[..., None].astype(np.float64) * wscale) + bias + residual
    for (y,) in run(func, target, [q, scale, zero, packed, wscale, wsum, bias, residual]):
        close(y, wanted)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(rows=st.integers(1, 40), k=st.integers(1, 90), n=st.integers(1, 70), seed=st.integers(0, 9))
def test_any_size(compiled, rows, k, n, seed):
    target = find("host")
    q, zero, w = arrays((2, rows), k, n, seed)
    kernel = compiled(dense_int8((2, rows), k, n, target.block), target)
    y = kernel(arguments(q, zero, w, target.block))[0]
    np.testing.assert_array_equal(y, exact(q, zero, w))


@pytest.mark.parametrize(("lead", "k", "n"), CASES)
def test_static_zero_points_of_each_input(run, close, target, lead, k, n):
    q, _, w = arrays(lead, k, n)
    rng = np.random.default_rng(2)
    zero = rng.integers(0, 256, k).astype(np.int32)
    scale = rng.uniform(1e-4, 1e-2, n).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    func = with_epilogue(static_int8(lead, k, n, target.block), bias=True)
    total = (q[..., :k].astype(np.int64) - zero) @ w.T.astype(np.int64)
    args = [q, pack_int8(w, target.block)[0], scale, static_shift(w, zero), bias]
    for (y,) in run(func, target, args):
        close(y, total * scale.astype(np.float64) + bias)


def test_static_is_exact_at_the_extremes(compiled, target):
    k, n = 64, 33
    q, w = np.full((5, k), 255, np.uint8), np.full((n, k), -128, np.int8)
    kernel = compiled(static_int8((5,), k, n, target.block), target)
    packed, ones = pack_int8(w, target.block)[0], np.ones(n, np.float32)
    for zero in (np.zeros(k, np.int32), np.full(k, 255, np.int32)):
        y = kernel([q, packed, ones, static_shift(w, zero)])[0]
        np.testing.assert_array_equal(y, (q.astype(np.int64) - zero) @ w.T.astype(np.int64))


def test_packing_keeps_every_weight():
    _, _, w = arrays((1,), 7, 33)
    packed, wsum = pack_int8(w, 16)
    assert packed.shape == (3, 2, 16, 4)
    flat = packed.transpose(0, 2, 1, 3).reshape(48, 8)
    np.testing.assert_array_equal(flat[:33, :7], w)
    assert (flat[33:] == 0).all()
    assert (flat[:, 7:] == 0).all()
    np.testing.assert_array_equal(wsum, w.astype(np.int64).sum(1))


def test_work_before_the_product_is_left_to_the_default_schedule(run, target):
    """A residual that is scaled before the product: no tile is made for it, and nothing breaks."""
    lead, k, n = (2, 7), 64, 40
    q, _, w = arrays(lead, k, n)
    packed, _ = pack_int8(w, target.block)
    func = static_int8(lead, k, n, target.block)
    builder = relax.BlockBuilder()
    shapes = [[int(d) for d in p.shape] for p in func.params]
    inputs = [
        relax.Var(f"x{i}", relax.TensorType(s, str(p.dtype)))
        for i, (s, p) in enumerate(zip(shapes[:-1], func.params, strict=False))
    ]
    residual = relax.Var("r", relax.TensorType(shapes[-1], "float32"))
    with builder.function("main", [*inputs, residual]):
        with builder.dataflow():
            scaled = builder.emit(relax.op.multiply(residual, relax.const(3.0, "float32")))
            kernel = builder.add_func(func, "kernel")
            y = relax.call_tir(kernel, inputs, relax.TensorType(shapes[-1], "float32"))
            out = builder.emit_output(relax.op.add(builder.emit(y), scaled))
        builder.emit_func_output(out)
    fuse = [
        *(relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern()),
        *(relax.transform.FuseOps(), relax.transform.FuseTIR()),
        relax.transform.DeadCodeElimination(),
    ]
    mod = tvm.transform.Sequential(fuse)(builder.get())
    (fused,) = (f for f in mod.functions.values() if isinstance(f, tvm.tirx.PrimFunc))
    ones, none = np.ones(n, np.float32), np.zeros(n, np.int32)
    r = np.random.default_rng(1).integers(-9, 9, (*lead, n)).astype(np.float32)
    names = [str(p.name) for p in fused.params][:-1]
    values = {"x0": q, "x1": packed, "x2": ones, "x3": none, "r": r}
    given = [values[next(v for v in values if name.startswith(v))] for name in names]
    for (y,) in run(fused, target, given):
        np.testing.assert_array_equal(y, exact(q, np.zeros(lead), w) + 3 * r)
