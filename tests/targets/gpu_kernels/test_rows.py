"""Softmax, layer norm and quantisation on GPUs: rows that no group divides, and rows too long for local memory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax as exact_softmax

from targets.kernels.norm import layer_norm
from targets.kernels.quantize import quantize_reference, quantize_rows
from targets.kernels.softmax import softmax
from targets.kernels.spaces import schedules
from targets.opencl_program import program

SHAPES = [(2, 13, 256), (3, 17), (2, 3, 1), (5, 77)]


def rows(shape, seed=0):
    return (3 * np.random.default_rng(seed).standard_normal(shape) + 1).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(run_gpu, close, gpu, shape):
    x = rows(shape)
    for (y,) in run_gpu(softmax(shape), gpu, [x], every=True):
        close(y, exact_softmax(x.astype(np.float64), axis=-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(run_gpu, close, gpu, shape):
    x = rows(shape)
    gamma, beta = rows((2, shape[-1]), 1)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    wanted = centred / np.sqrt(wide.var(-1, keepdims=True) + 1e-5) * gamma + beta
    for (y,) in run_gpu(layer_norm(shape, 1e-5), gpu, [x, gamma, beta], every=True):
        close(y, wanted, 5e-6)


@pytest.mark.parametrize(("lead", "k"), [((2, 9), 30), ((7,), 384)])
def test_quantize(run_gpu, gpu, lead, k):
    x = rows((*lead, k))
    wanted = quantize_reference(x)
    for q, scale, zero in run_gpu(quantize_rows(lead, k), gpu, [x], every=True):
        assert np.abs(q[..., :k].astype(int) - wanted.q).max() <= 1  # a value halfway between two
        assert (q[..., :k] != wanted.q).mean() < 0.01
        np.testing.assert_allclose(scale, wanted.scale, rtol=1e-6)
        np.testing.assert_array_equal(zero, wanted.zero)


def test_a_row_longer_than_local_memory_takes_several_kernels(run_gpu, close, gpu):
    shape = (3, 9001)
    made = program(schedules(softmax(shape), gpu)[0], gpu)
    assert len(made.launches) > 1
    x = rows(shape)
    for (y,) in run_gpu(softmax(shape), gpu, [x]):
        close(y, exact_softmax(x.astype(np.float64), axis=-1), 1e-5)


def test_sums_over_work_items_are_read_by_all_before_anything_takes_their_place(gpu):
    source = program(schedules(layer_norm((2, 13, 256), 1e-5), gpu)[0], gpu).source
    made = [line.split(" = ") for line in source.splitlines() if " = " in line]
    sums = [value for target, value in made if "red_buf" in target]
    assert sums
    assert all(v.startswith("in_thread") or v.count("red_buf") == 2 for v in sums)
    assert source.count("__local float") > 2, "mean and gain have a place of their own"
