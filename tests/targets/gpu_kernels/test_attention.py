"""Attention on GPUs against float64: odd lengths, every shape of bias, masks, both exponentials."""

from __future__ import annotations

import numpy as np
import pytest

from targets.kernels.activation import short_exp_reference
from targets.kernels.attention import attention, attention_gpu, attention_short
from targets.kernels.attention_int8 import attention_int8, attention_int8_reference
from targets.kernels.spaces import schedules
from targets.opencl_program import program
from tests.targets.references import attended

CASES = [
    (1, 1, 3, 16, None),
    (2, 13, 3, 16, (2, 1, 1, 13)),
    (1, 17, 2, 20, (1, 2, 17, 17)),
    (1, 66, 1, 32, (1, 1, 1, 66)),
]
KERNELS = {attention: np.exp, attention_gpu: np.exp, attention_short: short_exp_reference}


def inputs(batch, seq, heads, dim, shape):
    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((batch, seq, 3 * heads * dim)).astype(np.float32)
    return qkv, None if shape is None else rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("make", KERNELS)
@pytest.mark.parametrize(("batch", "seq", "heads", "dim", "shape"), CASES)
def test_attention(run_gpu, close, gpu, batch, seq, heads, dim, shape, make):
    qkv, bias = inputs(batch, seq, heads, dim, shape)
    func = make(batch, seq, heads, dim, shape, dim**-0.5)
    args = [qkv] if bias is None else [qkv, bias]
    for (y,) in run_gpu(func, gpu, args):
        close(y, attended(qkv, bias, heads, dim**-0.5, KERNELS[make]), 5e-6)


def test_masked_keys_count_for_nothing(run_gpu, close, gpu):
    qkv, _ = inputs(1, 13, 2, 16, None)
    bias = np.where(np.arange(13) < 5, 0, np.finfo(np.float32).min).astype(np.float32)
    bias = bias.reshape(1, 1, 1, 13)
    func = attention_gpu(1, 13, 2, 16, bias.shape, 0.25)
    for (y,) in run_gpu(func, gpu, [qkv, bias]):
        close(y, attended(qkv, bias, 2, 0.25), 5e-6)


def test_scores_softmax_and_mixing_are_four_kernels_without_surplus_rows(gpu):
    made = program(schedules(attention_gpu(1, 66, 2, 32, None, 0.25), gpu)[0], gpu)
    assert len(made.launches) == 4
    assert made.launches[2].groups == (2 * 68, 1, 1)


def test_int8_runs_block_by_block(run_gpu, gpu):
    qkv, bias = inputs(2, 13, 2, 16, (2, 1, 1, 13))
    wanted = attention_int8_reference(qkv, bias, 2, 0.25)
    for (y,) in run_gpu(attention_int8(2, 13, 2, 16, bias.shape, 0.25), gpu, [qkv, bias]):
        assert np.abs(y - wanted).max() <= 0.02 * np.abs(wanted).max()
        assert np.abs(y - wanted).mean() <= 1e-3 * np.abs(wanted).max()
