"""Attention against float64: odd lengths, every shape of bias, masks and extreme scores."""

from __future__ import annotations

import numpy as np
import pytest

from targets.kernels.activation import SHORT_EXP_ERROR, short_exp_reference
from targets.kernels.attention import attention, attention_short
from targets.kernels.attention_int8 import attention_int8
from targets.kernels.spaces import schedules
from targets.target import find
from tests.targets.references import attended

CASES = [
    (1, 1, 3, 16, None),
    (2, 13, 3, 16, (2, 1, 1, 13)),
    (1, 17, 2, 20, (1, 2, 17, 17)),
    (1, 130, 1, 32, (1, 1, 1, 130)),
]


def inputs(batch, seq, heads, dim, shape):
    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((batch, seq, 3 * heads * dim)).astype(np.float32)
    return qkv, None if shape is None else rng.standard_normal(shape).astype(np.float32)


KERNELS = {attention: np.exp, attention_short: short_exp_reference}
"""The exponential of each."""


@pytest.mark.parametrize("make", KERNELS)
@pytest.mark.parametrize(("batch", "seq", "heads", "dim", "shape"), CASES)
def test_attention(run, close, target, batch, seq, heads, dim, shape, make):
    qkv, bias = inputs(batch, seq, heads, dim, shape)
    func = make(batch, seq, heads, dim, shape, dim**-0.5)
    args = [qkv] if bias is None else [qkv, bias]
    for (y,) in run(func, target, args, every=seq == 17):
        close(y, attended(qkv, bias, heads, dim**-0.5, KERNELS[make]))


def test_short_exponentials_are_near_the_exact_ones(compiled, target):
    qkv, bias = inputs(2, 33, 3, 20, (2, 1, 1, 33))
    kernel = compiled(attention_short(2, 33, 3, 20, bias.shape, 0.25), target)
    error = np.abs(kernel([qkv, bias])[0] - attended(qkv, bias, 3, 0.25))
    assert 1e-5 < error.max() <= 2 * SHORT_EXP_ERROR * np.abs(qkv[..., 120:]).max()


@pytest.mark.parametrize("name", ["znver4", "aarch64-dotprod", "aarch64-i8mm"])
@pytest.mark.parametrize("make", [attention, attention_int8])
@pytest.mark.parametrize("seq", [1, 17, 61, 64, 65])
def test_every_part_of_a_split_head_has_rows(make, seq, name):
    """A part of surplus rows only cannot be scheduled."""
    found = schedules(make(1, seq, 2, 32, (1, 1, 1, seq), 0.2), find(name, 2))
    assert len(found) >= 4


def test_with_threads(run, close, threaded):
    qkv, bias = inputs(2, 17, 3, 16, (2, 1, 1, 17))
    func = attention(2, 17, 3, 16, (2, 1, 1, 17), 0.25)
    for (y,) in run(func, threaded, [qkv, bias], every=True):
        close(y, attended(qkv, bias, 3, 0.25))


@pytest.mark.parametrize("make", KERNELS)
@pytest.mark.parametrize("low", [-1e9, -1e30, np.finfo(np.float32).min])
def test_a_row_whose_keys_are_all_masked_is_their_mean(compiled, close, target, low, make):
    qkv, _ = inputs(1, 21, 2, 16, None)
    bias = np.full((1, 1, 1, 21), low, np.float32)
    y = compiled(make(1, 21, 2, 16, bias.shape, 0.25), target)([0.01 * qkv, bias])[0]
    wanted = np.broadcast_to(0.01 * qkv[0, :, 64:].mean(0, dtype=np.float64), (21, 32))
    close(y[0], wanted, 1e-5)


@pytest.mark.parametrize("make", KERNELS)
def test_masked_and_extreme_scores(compiled, close, target, make):
    qkv, _ = inputs(2, 21, 2, 16, None)
    bias = np.zeros((2, 1, 1, 21), np.float32)
    bias[0, ..., 9:] = np.finfo(np.float32).min
    bias[1] = -1e9  # every key masked alike: the mask cancels
    kernel = compiled(make(2, 21, 2, 16, bias.shape, 0.25), target)
    y = kernel([qkv, bias])[0]
    close(y[:1], attended(qkv[:1, :, :], bias[:1], 2, 0.25, KERNELS[make]))
    wanted = np.broadcast_to(qkv[1, :, 64:].mean(0, dtype=np.float64), (21, 32))
    close(y[1], wanted, 1e-5)
    sharp = qkv * np.float32(100)  # one key takes all
    y = kernel([sharp, 0 * bias])[0]
    close(y, attended(sharp, None, 2, 0.25, KERNELS[make]), 1e-4)
    assert (kernel([0 * qkv, bias])[0] == 0).all()
