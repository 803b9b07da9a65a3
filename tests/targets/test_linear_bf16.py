"""bfloat16 products against float64 on rounded numbers: odd sizes, zeros, extremes; and the rounding itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_bf16 import (
    bf16_bits,
    bf16_values,
    dense_bf16,
    pack_bf16,
    round_to_bf16,
)
from targets.kernels.spaces import schedules, space_name
from targets.target import find

CASES = [((1,), 30, 35), ((13,), 67, 50), ((2, 17), 64, 100), ((33,), 96, 17)]

SPECIAL = np.array(
    [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1 + 2**-8 + 2**-20, 3.3895e38, 3.4e38,
     -3.4e38, np.inf, -np.inf, np.nan, 2**-126, 1e-40, -1e-45],
    np.float32,
)  # fmt: skip


def nearest(x):
    """The nearest bfloat16 in float64: 8 bits of significand, ties to even."""
    x = x.astype(np.float64)
    exponent = np.maximum(np.frexp(x)[1], -125)
    return np.ldexp(np.rint(np.ldexp(x, 8 - exponent)), exponent - 8)


def arrays(lead, k, n, seed=0):
    """(inputs, their bits padded to pairs, weights)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*lead, k)).astype(np.float32)
    bits = np.zeros((*lead, -(-k // 2) * 2), np.uint16)
    bits[..., :k] = bf16_bits(x)
    return x, bits, rng.standard_normal((n, k)).astype(np.float32)


def test_rounding_in_numpy():
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32) * 10.0 ** np.arange(
        -20, 20
    ).repeat(25).astype(np.float32)
    np.testing.assert_array_equal(bf16_values(bf16_bits(x)), nearest(x))
    finite = SPECIAL[:7]
    np.testing.assert_array_equal(bf16_values(bf16_bits(finite)), nearest(finite))
    wanted = [np.inf, -np.inf, np.inf, -np.inf, np.nan]
    np.testing.assert_array_equal(bf16_values(bf16_bits(SPECIAL[8:13])), wanted)
    assert bf16_values(bf16_bits(SPECIAL[7:8]))[0] < np.inf
    full = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(bf16_values(bf16_bits(full))).all()


@pytest.mark.parametrize(("lead", "k"), [((1,), 16), ((3, 5), 32), ((7,), 13)])
def test_rounding_in_a_kernel(run, target, lead, k):
    x = np.random.default_rng(1).standard_normal((*lead, k)).astype(np.float32)
    x.reshape(-1)[: min(x.size, len(SPECIAL))] = SPECIAL[: x.size]
    wanted = np.zeros((*lead, -(-k // 2) * 2), np.uint16)
    wanted[..., :k] = bf16_bits(x)
    for (bits,) in run(round_to_bf16(lead, k), target, [x]):
        np.testing.assert_array_equal(bits, wanted)


@pytest.mark.parametrize(("lead", "k", "n"), CASES)
def test_products(run, close, target, lead, k, n):
    x, bits, w = arrays(lead, k, n)
    func = dense_bf16(lead, k, n, target.block)
    assert space_name(func) == "linear_bf16"
    for (y,) in run(func, target, [bits, pack_bf16(w, target.block)]):
        close(y, nearest(x) @ nearest(w).T)


def test_every_schedule(run, close, target):
    x, bits, w = arrays((2, 21), 56, 50)
    func = dense_bf16((2, 21), 56, 50, target.block)
    given = [bits, pack_bf16(w, target.block)]
    results = [y for (y,) in run(func, target, given, every=True)]
    assert len(results) >= 4
    for y in results:
        close(y, nearest(x) @ nearest(w).T)


def test_threads(run, close, threaded):
    x, bits, w = arrays((2, 17), 50, 70)
    func = dense_bf16((2, 17), 50, 70, threaded.block)
    for (y,) in run(func, threaded, [bits, pack_bf16(w, threaded.block)]):
        close(y, nearest(x) @ nearest(w).T)


def test_numbers_that_need_no_rounding_are_exact(run, target):
    """Small integers: any order of the sums gives the same."""
    rng = np.random.default_rng(2)
    x = rng.integers(-8, 9, (19, 48)).astype(np.float32)
    w = rng.integers(-8, 9, (40, 48)).astype(np.float32)
    x[3], w[5] = 0, 0
    func = dense_bf16((19,), 48, 40, target.block)
    for (y,) in run(func, target, [bf16_bits(x), pack_bf16(w, target.block)]):
        np.testing.assert_array_equal(y, x @ w.T)


def test_large_and_small_numbers(run, close, target):
    x, _, w = arrays((18,), 32, 33)
    for scale in (np.float32(1e18), np.float32(1e-18)):
        func = dense_bf16((18,), 32, 33, target.block)
        given = [bf16_bits(x * scale), pack_bf16(w * scale, target.block)]
        for (y,) in run(func, target, given):
            close(y, nearest(x * scale) @ nearest(w * scale).T)


def test_infinities_and_nans_stay_in_their_rows(compiled):
    target = find("host")
    x, _, w = arrays((17,), 32, 33)
    x[2, 4], x[7, 0] = np.inf, np.nan
    kernel = compiled(dense_bf16((17,), 32, 33, target.block), target)
    (y,) = kernel([bf16_bits(x), pack_bf16(np.abs(w) + 1, target.block)])
    assert np.isinf(y[2]).all()
    assert np.isnan(y[7]).all()
    assert np.isfinite(np.delete(y, [2, 7], axis=0)).all()


def test_epilogue(run, close, target):
    lead, k, n = (2, 13), 40, 50
    x, bits, w = arrays(lead, k, n)
    rng = np.random.default_rng(1)
    bias, residual = (rng.standard_normal(s).astype(np.float32) for s in ((n,), (*lead, n)))
    func = with_epilogue(dense_bf16(lead, k, n, target.block), bias=True, residual=True)
    wanted = nearest(x) @ nearest(w).T + bias + residual
    for (y,) in run(func, target, [bits, pack_bf16(w, target.block), bias, residual]):
        close(y, wanted)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(rows=st.integers(1, 40), k=st.integers(1, 90), n=st.integers(1, 70), seed=st.integers(0, 9))
def test_any_size(compiled, close, rows, k, n, seed):
    target = find("host")
    x, bits, w = arrays((2, rows), k, n, seed)
    kernel = compiled(dense_bf16((2, rows), k, n, target.block), target)
    (y,) = kernel([bits, pack_bf16(w, target.block)])
    close(y, nearest(x) @ nearest(w).T)


def test_packing_keeps_every_weight():
    _, _, w = arrays((1,), 7, 33)
    packed = pack_bf16(w, 16)
    assert packed.shape == (3, 4, 16, 2)
    flat = packed.transpose(0, 2, 1, 3).reshape(48, 8)
    np.testing.assert_array_equal(bf16_values(flat)[:33, :7], nearest(w))
    assert (flat[33:] == 0).all()
    assert (flat[:, 7:] == 0).all()


@pytest.mark.parametrize(
    ("name", "instruction"),
    [("znver4", "vdpbf16ps"), ("sapphirerapids", "tdpbf16ps"), ("x86-64-v4", "vfmadd")],
)
def test_each_target_gets_its_instruction(name, instruction):
    import tvm

    from targets.kernels.amx import lower_tiles

    target = find(name)
    sch = schedules(dense_bf16((32,), 64, 64, 32), target, limit=1)[0]
    code = tvm.compile(lower_tiles(sch.mod), target=target.tvm()).mod.inspect_source("asm")
    assert instruction in code
