"""Layer norm against float64: odd widths, large means, constant rows."""

from __future__ import annotations

import numpy as np
import pytest

from targets.kernels.norm import layer_norm


def reference(x, gamma, beta, eps):
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * gamma + beta


def inputs(shape):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(np.float32) for s in (shape, shape[-1:], shape[-1:])]


@pytest.mark.parametrize("shape", [(1, 7), (13, 33), (2, 17, 384), (130, 1)])
def test_layer_norm(run, close, target, shape):
    args = inputs(shape)
    for (y,) in run(layer_norm(shape, 1e-5), target, args, every=shape[-1] == 384):
        close(y, reference(*args, 1e-5))


def test_with_threads(run, close, threaded):
    args = inputs((130, 48))
    for (y,) in run(layer_norm((130, 48), 1e-12), threaded, args):
        close(y, reference(*args, 1e-12))


def test_rows_with_a_large_mean_and_constant_rows(compiled, close, target):
    x, gamma, beta = inputs((6, 96))
    x[0] += 1000
    x[1] = 3
    x[2] = 0
    x[3] *= 1e-10
    x[4] *= 1e15
    y = compiled(layer_norm((6, 96), 1e-5), target)([x, gamma, beta])[0]
    wanted = reference(x, gamma, beta, 1e-5)
    close(y[0], wanted[0], 1e-4)
    close(y[1:], wanted[1:], 2e-6)
