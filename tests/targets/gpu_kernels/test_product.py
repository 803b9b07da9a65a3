"""Linear layers of every format on GPUs against float64, at sizes that no tile divides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from targets.gpu_kernels.product import product_tiles
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear import dense, pack_dense
from targets.kernels.linear_bf16 import bf16_bits, bf16_values, dense_bf16, pack_bf16
from targets.kernels.linear_fp16 import dense_fp16, filled, fp16_values, pack_fp16
from targets.kernels.linear_int8 import dense_int8, pack_int8
from targets.kernels.linear_sparse import pack_sparse, sparse
from targets.kernels.linear_sparse_int8 import pack_sparse_int8, sparse_int8
from targets.kernels.linear_weight_only import Codes, pack_weight_only, weight_only
from targets.kernels.spaces import schedules
from targets.opencl_program import program
from targets.target import find

CASES = [((1,), 30, 35), ((13,), 67, 50), ((2, 17), 52, 100), ((2, 1), 9, 1), ((3, 64), 32, 64)]


def arrays(lead, k, n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*lead, k)).astype(np.float32)
    return x, rng.standard_normal((n, k)).astype(np.float32)


def product(x, w):
    return x.astype(np.float64) @ w.T.astype(np.float64)


@pytest.mark.parametrize(("lead", "k", "n"), CASES)
def test_dense(run_gpu, close, gpu, lead, k, n):
    x, w = arrays(lead, k, n)
    func = dense(lead, k, n, gpu.block)
    for (y,) in run_gpu(func, gpu, [x, pack_dense(w, gpu.block)], every=k == 67):
        close(y, product(x, w))


def test_the_epilogue_is_fused(run_gpu, close, gpu):
    lead, k, n = (2, 13), 36, 50
    x, w = arrays(lead, k, n)
    bias, residual = np.linspace(-2, 2, n, dtype=np.float32), arrays(lead, n, 1, 1)[0]
    z = product(x, w) + bias
    wanted = z * 0.5 * (1 + erf(z / np.sqrt(2))) + residual
    func = with_epilogue(dense(lead, k, n, gpu.block), bias=True, activation="gelu", residual=True)
    for (y,) in run_gpu(func, gpu, [x, pack_dense(w, gpu.block), bias, residual]):
        close(y, wanted)


def kept_at_random(n, k, nb, kept, seed=3):
    rng = np.random.default_rng(seed)
    mask = np.zeros((-(-n // nb), k), bool)
    for row in mask:
        row[rng.permutation(k)[:kept]] = True
    return mask


def test_sparse(run_gpu, close, gpu):
    lead, k, n, kept = (2, 11), 40, 45, 13
    x, w = arrays(lead, k, n)
    mask = kept_at_random(n, k, gpu.block, kept)
    w = w * np.repeat(mask, gpu.block, axis=0)[:n]
    func = sparse(lead, k, n, gpu.block, kept)
    for (y,) in run_gpu(func, gpu, [x, *pack_sparse(w, mask, gpu.block)]):
        close(y, product(x, w))


def codes(lead, k, n, seed=5):
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 256, (*lead, -(-k // 4) * 4)).astype(np.uint8)
    q[..., k:] = 0
    scale = rng.uniform(0.5, 2, lead).astype(np.float32)
    zero = rng.integers(0, 256, lead).astype(np.int32)
    weight = rng.integers(-127, 128, (n, k)).astype(np.int8)
    wscale = rng.uniform(0.5, 2, n).astype(np.float32)
    return q, scale, zero, weight, wscale


def dequantised(q, scale, zero, weight, wscale):
    whole = q[..., : weight.shape[1]].astype(np.int64) @ weight.T.astype(np.int64)
    whole -= zero[..., None].astype(np.int64) * weight.astype(np.int64).sum(1)
    return whole * scale[..., None].astype(np.float64) * wscale


def test_int8(run_gpu, close, gpu):
    lead, k, n = (2, 9), 30, 45
    q, scale, zero, weight, wscale = codes(lead, k, n)
    packed, wsum = pack_int8(weight, gpu.block)
    inputs = [q, scale, zero, packed, wscale, wsum]
    for (y,) in run_gpu(dense_int8(lead, k, n, gpu.block), gpu, inputs, every=True):
        close(y, dequantised(q, scale, zero, weight, wscale))


def test_sparse_int8(run_gpu, close, gpu):
    lead, k, n, kept = (2, 9), 44, 45, 4
    q, scale, zero, weight, wscale = codes(lead, k, n)
    mask = kept_at_random(n, k // 4, gpu.block, kept)
    weight = weight * np.repeat(np.repeat(mask, 4, axis=1), gpu.block, axis=0)[:n].astype(np.int8)
    values, index, wsum = pack_sparse_int8(weight, mask, gpu.block)
    func = sparse_int8(lead, k, n, gpu.block, kept)
    for (y,) in run_gpu(func, gpu, [q, scale, zero, values, index, wscale, wsum]):
        close(y, dequantised(q, scale, zero, weight, wscale))


@pytest.mark.parametrize("k", [30, 192])
def test_fp16(run_gpu, close, gpu, k):
    lead, n = (2, 9), 45
    x, w = arrays(lead, k, n)
    h = np.zeros((*lead, filled(k)), np.float16)
    h[..., :k] = x
    wanted = product(fp16_values(x), fp16_values(w))
    func = dense_fp16(lead, k, n, gpu.block)
    for (y,) in run_gpu(func, gpu, [h, pack_fp16(w, gpu.block)]):
        close(y, wanted, 2e-3)


def test_bf16(run_gpu, close, gpu):
    lead, k, n = (2, 9), 30, 45
    x, w = arrays(lead, k, n)
    wanted = product(bf16_values(bf16_bits(x)), bf16_values(bf16_bits(w)))
    func = dense_bf16(lead, k, n, gpu.block)
    for (y,) in run_gpu(func, gpu, [bf16_bits(x), pack_bf16(w, gpu.block)]):
        close(y, wanted)


@pytest.mark.parametrize("form", [Codes(8, 16), Codes(4, 8, False)])
def test_weight_only(run_gpu, close, gpu, form):
    lead, k, n = (2, 9), 37, 45
    x, _ = arrays(lead, k, n)
    rng = np.random.default_rng(2)
    code = rng.integers(form.lowest, form.highest + 1, (n, k))
    scale = rng.uniform(0.5, 2, (n, form.groups(k))).astype(np.float32)
    zero = rng.integers(form.lowest, form.highest + 1, scale.shape)
    points = np.full_like(zero, form.middle) if form.symmetric else zero
    spread = np.repeat(np.arange(form.groups(k)), form.group)[:k]
    wanted = product(x, (code - points[:, spread]) * scale[:, spread])
    packed = pack_weight_only(form, code, scale, None if form.symmetric else zero, gpu.block)
    for (y,) in run_gpu(weight_only(lead, k, n, gpu.block, form), gpu, [x, *packed]):
        close(y, wanted, 1e-5)


@settings(max_examples=5, deadline=None)
@given(rows=st.integers(1, 70), k=st.integers(1, 40), n=st.integers(1, 90), batch=st.integers(1, 3))
def test_any_shape(run_gpu, close, rows, k, n, batch):
    target = find("mali")
    x, w = arrays((batch, rows), k, n, seed=rows)
    func = dense((batch, rows), k, n, target.block)
    for (y,) in run_gpu(func, target, [x, pack_dense(w, target.block)]):
        close(y, product(x, w))


def test_tiles_are_tall_where_there_is_work_and_low_where_items_would_idle():
    mali = find("mali")
    many = product_tiles(dense((4096,), 64, 512, mali.block), mali)[0]
    few = product_tiles(dense((49,), 64, 64, mali.block), mali)[0]
    assert many.rows >= 4
    assert few.rows == 1
    assert all(p.rows * 8 + p.step * 9 <= 54 for p in [many, few]), "registers of a Mali"


def test_groups_stage_inputs_in_local_memory_where_all_of_them_are_whole(run_gpu, close):
    adreno, mali = find("adreno"), find("mali")
    lead, k, n = (2, 128), 64, 256
    func = dense(lead, k, n, adreno.block)
    staged = [tile.staged for tile in product_tiles(func, adreno)]
    assert staged[-2:] == [16, 32]
    assert not any(tile.staged for tile in product_tiles(func, mali))
    ragged = dense((2, 127), k, n, adreno.block)
    assert not any(tile.staged for tile in product_tiles(ragged, adreno))
    x, w = arrays(lead, k, n)
    sources = [program(sch, adreno).source for sch in schedules(func, adreno)]
    assert ["barrier" in source for source in sources] == [length > 0 for length in staged]
    for (y,) in run_gpu(func, adreno, [x, pack_dense(w, adreno.block)], every=True):
        close(y, product(x, w))
