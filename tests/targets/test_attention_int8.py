"""int8 attention: the same codes as its reference, and near exact attention at odd lengths and masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.kernels.attention_int8 import attention_int8, attention_int8_reference
from targets.kernels.spaces import schedules
from targets.target import find
from tests.targets.references import attended

CASES = [
    (1, 1, 3, 8, None),
    (3, 5, 1, 12, (1, 1, 1, 5)),
    (2, 17, 3, 20, (1, 3, 17, 17)),
    (2, 31, 3, 64, (2, 1, 1, 31)),
    (1, 77, 12, 32, None),
    (1, 128, 3, 64, (1, 1, 1, 128)),
]

QUANTISATION = 0.05
"""Largest error against exact attention, by the largest magnitude of a value.

A code is off by half a step at most: 1/254 of the largest value, and the same part of a probability for
each of the keys. Queries and keys make scores of normal inputs wrong by about 1 %."""


def inputs(batch, seq, heads, dim, shape, seed=0):
    rng = np.random.default_rng(seed)
    qkv = rng.standard_normal((batch, seq, 3 * heads * dim)).astype(np.float32)
    return qkv, None if shape is None else rng.standard_normal(shape).astype(np.float32)


def check(y, qkv, bias, heads, scale):
    """The reference's codes, but for a few halfway between two; and near exact attention."""
    wanted = attention_int8_reference(qkv, bias, heads, scale)
    assert y.shape == wanted.shape
    assert not np.isnan(y).any(), "an output was not written"
    largest = max(float(np.abs(qkv[..., qkv.shape[-1] // 3 * 2 :]).max()), 1e-30)
    far = np.abs(y.astype(np.float64) - wanted) / largest
    assert np.median(far) <= 1e-6
    assert far.max() <= 0.01  # one step of a key's or a query's code
    assert np.abs(y - attended(qkv, bias, heads, scale)).max() <= QUANTISATION * largest


def arguments(qkv, bias):
    return [qkv] if bias is None else [qkv, bias]


@pytest.mark.parametrize(("batch", "seq", "heads", "dim", "shape"), CASES)
def test_attention(run, target, batch, seq, heads, dim, shape):
    qkv, bias = inputs(batch, seq, heads, dim, shape)
    func = attention_int8(batch, seq, heads, dim, shape, dim**-0.5)
    for (y,) in run(func, target, arguments(qkv, bias), every=seq == 17):
        check(y, qkv, bias, heads, dim**-0.5)


@pytest.mark.parametrize("seq", [1, 17, 130])
def test_with_threads(run, threaded, seq):
    shape = (2, 1, 1, seq)
    qkv, bias = inputs(2, seq, 3, 16, shape)
    func = attention_int8(2, seq, 3, 16, shape, 0.25)
    for (y,) in run(func, threaded, [qkv, bias], every=True):
        check(y, qkv, bias, 3, 0.25)


def test_masked_keys_have_no_part(compiled, target):
    qkv, _ = inputs(2, 21, 2, 16, None)
    bias = np.zeros((2, 1, 1, 21), np.float32)
    bias[:, ..., 9:] = np.array([np.finfo(np.float32).min, -1e9])[:, None, None, None]
    kernel = compiled(attention_int8(2, 21, 2, 16, bias.shape, 0.25), target)
    check(kernel([qkv, bias])[0], qkv, bias, 2, 0.25)
    other = qkv.copy()
    other[:, 9:, 64:] = 0.5 * qkv[:, 9:, 64:]  # values of masked keys, none larger than before
    wide = np.abs(qkv[:, 9:, 64:]).max(1) > np.abs(qkv[:, :9, 64:]).max(1)
    same = np.broadcast_to(~wide[:, None], (2, 21, 32))
    np.testing.assert_array_equal(kernel([qkv, bias])[0][same], kernel([other, bias])[0][same])


@pytest.mark.parametrize("mask", [-1e9, np.finfo(np.float32).min, -np.inf])
def test_all_keys_masked_alike_count_alike(compiled, close, target, mask):
    qkv, _ = inputs(1, 21, 2, 16, None)
    bias = np.full((1, 1, 1, 21), mask, np.float32)
    y = compiled(attention_int8(1, 21, 2, 16, bias.shape, 0.25), target)([qkv, bias])[0]
    wanted = np.broadcast_to(qkv[..., 64:].mean(1, dtype=np.float64, keepdims=True), y.shape)
    close(y, wanted, 0.02)


def test_extreme_operands(compiled, close, target):
    qkv, _ = inputs(2, 21, 2, 16, None)
    kernel = compiled(attention_int8(2, 21, 2, 16, None, 0.25), target)
    assert (kernel([0 * qkv])[0] == 0).all()
    for part in range(3):
        zero = qkv.copy()
        zero[..., 32 * part : 32 * part + 32] = 0
        check(kernel([zero])[0], zero, None, 2, 0.25)
    constant = np.ones_like(qkv) * np.float32(3)
    close(kernel([constant])[0], constant[..., :32], 1e-6)  # weights add up to one
    sharp = qkv.copy()
    sharp[..., :64] *= np.float32(100)  # one key takes all
    close(kernel([sharp])[0], attention_int8_reference(sharp, None, 2, 0.25), 1e-6)
    for power in (-30, 30):  # powers of two change no code of a value
        scaled = qkv.copy()
        scaled[..., 64:] *= np.float32(2.0**power)
        close(kernel([scaled])[0], kernel([qkv])[0].astype(np.float64) * 2.0**power, 1e-6)


def test_what_all_keys_share_costs_nothing(compiled, target):
    qkv, _ = inputs(1, 64, 2, 32, None)
    shifted = qkv.copy()
    shifted[..., 64:128] += 50 * (np.arange(64) % 10 == 0)
    kernel = compiled(attention_int8(1, 64, 2, 32, None, 32**-0.5), target)
    errors = [np.abs(kernel([x])[0] - attended(x, None, 2, 32**-0.5)).max() for x in (qkv, shifted)]
    assert errors[1] < 1.5 * errors[0]


@pytest.fixture(scope="module")
def small(compiled):
    return compiled(attention_int8(2, 19, 2, 12, (2, 1, 1, 19), 0.3), find("host"))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    power=st.tuples(*[st.integers(-12, 3)] * 2, st.integers(-60, 60)),
    bias=st.sampled_from([0.0, 1.0, 30.0]),
    kept=st.integers(1, 19),
)
def test_any_scale(small, seed, power, bias, kept):
    qkv, mask = inputs(2, 19, 2, 12, (2, 1, 1, 19), seed)
    qkv *= np.repeat(np.exp2(np.float32(power)), 24).astype(np.float32)
    mask = (mask * np.float32(bias)).astype(np.float32)
    mask[..., kept:] = np.finfo(np.float32).min
    y = small([qkv, mask])[0]
    wanted = attention_int8_reference(qkv, mask, 2, 0.3)
    step = np.abs(qkv[..., 48:]).max() / 64
    assert np.abs(y - wanted).max() <= step * max(1.0, 2.0 ** (power[0] + power[1]))
    assert np.median(np.abs(y - wanted)) <= 1e-4 * step


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    seq=st.integers(1, 70),
    heads=st.integers(1, 3),
    dim=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_any_size(compiled, batch, seq, heads, dim, seed):
    shape = (1, 1, 1, seq)
    qkv, bias = inputs(batch, seq, heads, dim, shape, seed)
    func = attention_int8(batch, seq, heads, dim, shape, dim**-0.5)
    check(compiled(func, find("host"))([qkv, bias])[0], qkv, bias, heads, dim**-0.5)


@pytest.mark.parametrize(("seq", "dim"), [(128, 32), (128, 64), (77, 64), (17, 12), (1, 8)])
@pytest.mark.parametrize("name", ["znver4", "icelake-server", "alderlake"])
def test_both_products_use_the_dot_product(name, seq, dim):
    target = find(name)
    func = attention_int8(1, seq, 12, dim, (1, 1, 1, seq), dim**-0.5)
    for sch in schedules(func, target):
        script = sch.mod.script()
        products = 3 if dim % target.lanes == 0 else 2  # and the sum of the codes
        assert script.count(f"vpdpbusd.{target.vector_bits}") == products
