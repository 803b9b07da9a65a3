"""Static quantisation: bit for bit, at ties and extremes, and within the kernels before it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from targets.kernels.attention import attention
from targets.kernels.attention_int8 import attention_int8, attention_int8_reference
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear import dense, pack_dense
from targets.kernels.norm import layer_norm
from targets.kernels.quantize_static import (
    pad_groups,
    quantize_static,
    quantize_static_reference,
    quantizer,
)
from targets.target import find
from tests.targets.references import attended

rng = np.random.default_rng(3)


def codes_of(x, scale, zero):
    """In exact arithmetic: float64 divides without the rounding of 1 / scale."""
    return np.clip(np.rint(x.astype(np.float64) / scale) + zero, 0, 255)


def near(got, wanted):
    """Equal but for values between two codes."""
    difference = np.abs(got.astype(int) - wanted)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def channels(count, around=0.03):
    """(scale, zero): every channel has its own."""
    return around * rng.uniform(0.5, 2, count), rng.integers(0, 256, count)


@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 33)])
def test_codes(run, target, shape):
    scale, zero = channels(shape[-1])
    x = (rng.standard_normal(shape) * 150 * scale).astype(np.float32)
    for (q,) in run(quantize_static(shape), target, [x, *quantizer(scale, zero)]):
        near(q, codes_of(x, scale, zero))
        near(q, quantize_static_reference(x, scale, zero).astype(int))


@pytest.fixture(scope="module")
def line(compiled):
    return compiled(quantize_static((1, 37)), find("host"))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    arrays(np.float32, (1, 37), elements=st.floats(-(2.0**126), 2.0**126, width=32)),
    arrays(np.float32, 37, elements=st.floats(2.0**-100, 2.0**100, width=32)),
    arrays(np.int32, 37, elements=st.integers(0, 255)),
)
def test_any_value_scale_and_zero(line, x, scale, zero):
    q = line([x, *quantizer(scale, zero)])[0]
    wanted = codes_of(x, scale, zero)
    assert np.abs(q - wanted).max() <= 1
    assert (q[x == 0] == np.broadcast_to(zero, x.shape)[x == 0]).all()
    np.testing.assert_array_equal(q, quantize_static_reference(x, scale, zero))


def test_halves_go_to_even_and_the_ends_hold(compiled, target):
    x = np.array([[-300, -0.5, 0.5, 1.5, 2.5, 254.5, 255.5, 1e30, -1e30, np.inf, -np.inf]], "f4")
    kernel = compiled(quantize_static(x.shape), target)
    q = kernel([x, *quantizer(np.ones(11), np.zeros(11))])[0]
    np.testing.assert_array_equal(q, [[0, 0, 0, 2, 2, 254, 255, 255, 0, 255, 0]])
    q = kernel([x, *quantizer(np.ones(11), np.ones(11))])[0]
    np.testing.assert_array_equal(q, [[0, 0, 2, 2, 4, 255, 255, 255, 0, 255, 0]])


def test_padding_to_whole_groups(compiled, target):
    q = rng.integers(0, 256, (2, 3, 10)).astype(np.uint8)
    padded = compiled(pad_groups(q.shape), target)([q])[0]
    np.testing.assert_array_equal(padded[..., :10], q)
    assert padded.shape == (2, 3, 12)
    assert (padded[..., 10:] == 0).all()


def test_within_a_product_with_bias_relu_and_residual(run, target, caplog):
    lead, k, n = (2, 13), 37, 50
    x, residual = (rng.standard_normal((*lead, e)).astype(np.float32) for e in (k, n))
    weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((n, k), (n,)))
    func = with_epilogue(
        dense(lead, k, n, target.block), bias=True, activation="relu", residual=True, codes=True
    )
    codes = channels(n, 0.1)
    y = np.maximum(x.astype(np.float64) @ weight.T + bias, 0) + residual
    args = [x, pack_dense(weight, target.block), bias, residual, *quantizer(*codes)]
    for (q,) in run(func, target, args):
        near(q, codes_of(y, *codes))
    assert "do not fit" not in caplog.text


def test_within_layer_norm(run, target):
    shape = (2, 9, 52)
    x = rng.standard_normal(shape).astype(np.float32)
    gamma, beta = (rng.standard_normal(52).astype(np.float32) for _ in range(2))
    wide = x.astype(np.float64)
    unit = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    codes = channels(52)
    func = with_epilogue(layer_norm(shape, 1e-5), codes=True)
    for (q,) in run(func, target, [x, gamma, beta, *quantizer(*codes)]):
        near(q, codes_of(unit * gamma + beta, *codes))


def test_within_attention(run, threaded, caplog):
    qkv = rng.standard_normal((2, 13, 3 * 48)).astype(np.float32)
    codes = channels(48, 0.01)
    exact = attended(qkv, None, 3, 0.25)
    coarse = attention_int8_reference(qkv, None, 3, 0.25)
    for make, wanted in ((attention, exact), (attention_int8, coarse)):
        func = with_epilogue(make(2, 13, 3, 16, None, 0.25), codes=True)
        for (q,) in run(func, threaded, [qkv, *quantizer(*codes)]):
            near(q, codes_of(wanted, *codes))
    assert "do not fit" not in caplog.text
