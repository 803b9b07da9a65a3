"""float16 products against float64 on rounded numbers, within the documented bound; and the rounding itself."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_fp16 import (
    CHUNK,
    LARGEST,
    chunk_of,
    dense_fp16,
    filled,
    fp16_values,
    pack_fp16,
    round_to_fp16,
)
from targets.kernels.spaces import schedules, space_name
from targets.target import Target, find

CASES = [((1,), 30, 35), ((13,), 67, 50), ((2, 17), 192, 100), ((33,), 131, 17)]

SPECIAL = np.array(
    [0.0, -0.0, 1.0, 1 + 2**-11, 1 + 3 * 2**-11, -(1 + 2**-11), 1 + 2**-11 + 2**-20, 65504, 65519.9,
     -65519, 65520, -1e30, np.inf, -np.inf, np.nan, 2**-14, 2**-15 + 2**-26, 2**-24, 2**-25, 2**-25 + 2**-40,
     -3e-8, 1e-40],
    np.float32,
)  # fmt: skip


def arrays(lead, k, n, seed=0):
    """(inputs in float16, filled up, weights)."""
    rng = np.random.default_rng(seed)
    x = np.zeros((*lead, filled(k)), np.float16)
    x[..., :k] = rng.standard_normal((*lead, k))
    return x, rng.standard_normal((n, k)).astype(np.float32)


def exact(x, w):
    """(the outputs, sum |x w| of each) in float64."""
    x, w = x.astype(np.float64)[..., : w.shape[1]], fp16_values(w).astype(np.float64)
    return x @ w.T, np.abs(x) @ np.abs(w).T


def bound(size, k, chunk=CHUNK):
    """What an output may be off by, as the kernel's documentation says it."""
    c = chunk * 2.0**-11
    return (c / (1 - c) + 2.0**-24 * -(-k // chunk)) * size + 2.0**-25 * k


def near(y, x, w):
    """Within the bound everywhere, and a tenth of it on the whole where there are enough outputs for a mean."""
    wanted, size = exact(x, w)
    assert y.shape == wanted.shape
    assert not np.isnan(y).any(), "an output was not written"
    k = x.shape[-1]
    off = np.abs(y - wanted)
    assert (off <= bound(size, k, chunk_of(k))).all()
    if off.size >= 64 and k >= 16:  # of few sums, or short ones, the mean says nothing
        assert off.mean() <= 0.1 * bound(size, k, chunk_of(k)).mean() + 2**-25


def test_chunks_are_long_and_fill_up_little():
    for k in range(1, 1200):
        wide = filled(k)
        chunk = chunk_of(wide)
        assert wide % chunk == 0
        assert min(16, k) <= chunk <= CHUNK
        assert k <= wide < k + 16
    assert [filled(k) for k in (7, 64, 67, 150, 384, 1536)] == [7, 64, 80, 150, 384, 1536]


@pytest.mark.parametrize(("lead", "k"), [((1,), 32), ((3, 5), 48), ((7,), 67)])
def test_rounding_in_a_kernel(run, target, lead, k):
    x = np.random.default_rng(1).standard_normal((*lead, k)).astype(np.float32)
    x.reshape(-1)[: len(SPECIAL)] = SPECIAL
    wanted = np.zeros((*lead, filled(k)), np.float32)
    wanted[..., :k] = fp16_values(x)
    for (h,) in run(round_to_fp16(lead, k), target, [x]):
        np.testing.assert_array_equal(h.astype(np.float32), wanted)


@pytest.mark.parametrize(("lead", "k", "n"), CASES)
def test_products(compiled, target, lead, k, n):
    x, w = arrays(lead, k, n)
    func = dense_fp16(lead, k, n, target.block)
    assert space_name(func) == "linear_fp16"
    (y,) = compiled(func, target)([x, pack_fp16(w, target.block)])
    near(y, x, w)


def test_every_schedule(run):
    target = find("host")
    x, w = arrays((2, 21), 200, 4 * target.block)
    func = dense_fp16((2, 21), 200, 4 * target.block, target.block)
    results = [y for (y,) in run(func, target, [x, pack_fp16(w, target.block)], every=True)]
    assert len(results) >= 7
    for y in results:
        near(y, x, w)


def test_threads(run):
    threaded = find("host", 2)
    x, w = arrays((2, 17), 192, 70)
    func = dense_fp16((2, 17), 192, 70, threaded.block)
    for (y,) in run(func, threaded, [x, pack_fp16(w, threaded.block)]):
        near(y, x, w)


def test_numbers_that_need_no_rounding_are_exact(compiled, target):
    """Small integers, sums below 2^11: any order gives the same."""
    rng = np.random.default_rng(2)
    x = rng.integers(-4, 5, (19, 384)).astype(np.float16)
    w = rng.integers(-4, 5, (40, 384)).astype(np.float32)
    x[3], w[5] = 0, 0
    func = dense_fp16((19,), 384, 40, target.block)
    (y,) = compiled(func, target)([x, pack_fp16(w, target.block)])
    np.testing.assert_array_equal(y, x.astype(np.float32) @ w.T)
    assert not np.signbit(y[3]).any()


def test_what_is_small_against_a_long_sum_is_not_lost(compiled):
    """In float16 alone, 1 is lost against 2048: 4096 ones would give 2048."""
    target = find("host")
    ones = np.ones((1, 4096), np.float16)
    kernel = compiled(dense_fp16((1,), 4096, 32, target.block), target)
    (y,) = kernel([ones, pack_fp16(np.ones((32, 4096), np.float32), target.block)])
    np.testing.assert_array_equal(y, 4096)


@pytest.mark.parametrize(
    ("x_scale", "w_scale"), [(900, 1), (2**-9, 2**-6), (2**-18, 1), (1e4, 1e-5)]
)
def test_large_and_small_numbers(compiled, x_scale, w_scale):
    target = find("host")
    x, w = arrays((18,), 96, 33)
    x, w = (x * np.float16(x_scale)).astype(np.float16), w * np.float32(w_scale)
    kernel = compiled(dense_fp16((18,), 96, 33, target.block), target)
    near(kernel([x, pack_fp16(w, target.block)])[0], x, w)


def test_the_largest_number_passes_and_infinities_stay_in_their_rows(compiled):
    target = find("host")
    x, w = arrays((17,), 32, 33)
    w = np.abs(w) + 1
    x[2, 4], x[7, 0], x[9], x[9, 3] = np.inf, np.nan, 0, LARGEST
    w[:, 3] = 1
    kernel = compiled(dense_fp16((17,), 32, 33, target.block), target)
    (y,) = kernel([x, pack_fp16(w, target.block)])
    assert np.isinf(y[2]).all()
    assert np.isnan(y[7]).all()
    np.testing.assert_array_equal(y[9], LARGEST)
    assert np.isfinite(np.delete(y, [2, 7], axis=0)).all()


def test_epilogue(run, target):
    lead, k, n = (2, 13), 80, 50
    x, w = arrays(lead, k, n)
    rng = np.random.default_rng(1)
    bias, residual = (rng.standard_normal(s).astype(np.float32) for s in ((n,), (*lead, n)))
    func = with_epilogue(dense_fp16(lead, k, n, target.block), bias=True, residual=True)
    for (y,) in run(func, target, [x, pack_fp16(w, target.block), bias, residual]):
        near(y - bias.astype(np.float64) - residual, x, w)


@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])
@given(rows=st.integers(1, 40), k=st.integers(1, 300), n=st.integers(1, 70), seed=st.integers(0, 9))
def test_any_size(compiled, rows, k, n, seed):
    target = find("host")
    x, w = arrays((2, rows), k, n, seed)
    kernel = compiled(dense_fp16((2, rows), k, n, target.block), target)
    (y,) = kernel([x, pack_fp16(w, target.block)])
    near(y, x, w)


def test_packing_keeps_every_weight():
    _, w = arrays((1,), 67, 33)
    packed = pack_fp16(w, 16)
    assert packed.shape == (3, 80, 16)
    assert packed.dtype == np.float16
    flat = packed.transpose(0, 2, 1).reshape(48, 80)
    np.testing.assert_array_equal(flat[:33, :67], w.astype(np.float16))
    assert (flat[33:] == 0).all()
    assert (flat[:, 67:] == 0).all()


def inner_loop(target, triple, func):
    """The loop of the first schedule with the most multiply-adds of float16."""
    built = tvm.compile(schedules(func, target)[0].mod, target=tvm.target.Target(triple))
    text = built.mod.inspect_source("asm")
    loops = re.split(r"^\.LBB\w+:", text, flags=re.MULTILINE)
    return max(loops, key=lambda t: len(MULTIPLY_ADD.findall(t))).split("b.ne")[0].split("jne")[0]


MULTIPLY_ADD = re.compile(r"vfmadd231ph|fmla\s+v\d+\.8h")


def test_the_loop_on_avx512_is_multiply_adds_and_their_operands():
    target = find("sapphirerapids")
    func = dense_fp16((128,), 384, 1536, target.block)
    inner = inner_loop(target, {"kind": "llvm", "mcpu": target.mcpu}, func)
    assert len(MULTIPLY_ADD.findall(inner)) % 13 == 0
    assert "1to32" in inner
    assert "rsp" not in inner
    assert not re.search(r"vmov\w+\s+%zmm\d+, ", inner)


def test_the_loop_on_aarch64_is_multiply_adds_and_their_operands():
    """No spill: nothing is stored, and nothing read from the stack."""
    arm = Target("arm", "cortex-a76", frozenset({"neon", "fullfp16"}), 128, 32)
    func = dense_fp16((128,), 384, 512, arm.block)
    triple = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": arm.mcpu,
              "mattr": ["+neon", "+fullfp16"]}  # fmt: skip
    inner = inner_loop(arm, triple, func)
    assert MULTIPLY_ADD.findall(inner)
    assert len(MULTIPLY_ADD.findall(inner)) % 13 == 0
    assert "sp" not in re.findall(r"\[(\w+)", inner)
    assert not re.search(r"\sst[rp]\s", inner)
    assert "fcvt" not in inner
