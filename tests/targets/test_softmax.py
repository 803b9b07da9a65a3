"""Softmax against float64: odd widths, extreme values, masked entries."""

from __future__ import annotations

import numpy as np
import pytest

from targets.kernels.softmax import softmax


def reference(x):
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(1, 1), (13, 33), (2, 3, 17, 128)])
def test_softmax(run, target, shape):
    x = (10 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    wanted = reference(x)
    # the exponent is rounded when it is made and when it is scaled: a relative error of the result
    below = x.max(-1, keepdims=True) - x.astype(np.float64)
    for (y,) in run(softmax(shape), target, [x], every=shape[-1] == 33):
        assert (np.abs(y - wanted) <= wanted * (2e-6 + 2**-23 * below) + 1e-30).all()


def test_with_threads(run, threaded):
    x = np.random.default_rng(0).standard_normal((130, 48)).astype(np.float32)
    for (y,) in run(softmax((130, 48)), threaded, [x]):
        np.testing.assert_allclose(y, reference(x), rtol=2e-6)


def test_extreme_rows(compiled, target):
    x = np.zeros((4, 40), np.float32)
    x[1, 1:] = np.finfo(np.float32).min / 2
    x[2] = 3e38
    x[3, ::2] = -1e9
    y = compiled(softmax((4, 40)), target)([x])[0]
    np.testing.assert_allclose(y, reference(x), rtol=2e-6, atol=1e-36)
