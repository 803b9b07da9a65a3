"""Every elementwise function within the error that its docstring states."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from tvm import te

from targets.kernels import activation
from targets.kernels.default import default_schedule
from targets.kernels.primfunc import dims, prim_func


def kernel_of(function, count):
    x = te.placeholder(dims(count), "float32", name="x")
    return prim_func([x, function(x)])


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


FUNCTIONS = {
    "te_erf": (special.erf, 5e-7, False),
    "te_gelu": (lambda x: x * special.ndtr(x), 3e-7, True),
    "te_tanh": (np.tanh, 3e-7, False),
    "te_gelu_tanh": (gelu_tanh, 5e-7, True),
    "te_sigmoid": (special.expit, 2e-7, False),
    "te_silu": (lambda x: x * special.expit(x), 2e-7, True),
}

# All scales; zero of both signs; what float32 ends with. The square of the largest overflows in
# the tanh form of GELU, where only the limit counts.
POINTS = np.concatenate(
    [
        np.linspace(-12, 12, 40001),
        np.linspace(-200, 200, 4001),
        [0.0, -0.0, 1e-38, -1e-38, 1e-20, 1e12, -1e12],
    ]
).astype(np.float32)

LOW, HIGH = np.float32(-86.6).astype(float), np.float32(88.3).astype(float)  # where exp stops


@pytest.mark.parametrize("name", FUNCTIONS)
def test_stated_error(compiled, target, name):
    exact, error, relative = FUNCTIONS[name]
    got = compiled(kernel_of(getattr(activation, name), len(POINTS)), target)([POINTS])[0]
    x = POINTS.astype(np.float64)
    scale = np.maximum(1, np.abs(x)) if relative else 1
    assert (np.abs(got - exact(x)) <= error * scale).all()


def test_exp(compiled, target):
    got = compiled(kernel_of(activation.te_exp, len(POINTS)), target)([POINTS])[0]
    wanted = np.exp(np.clip(POINTS.astype(np.float64), LOW, HIGH))
    error = np.abs(got / wanted - 1)
    assert error[np.abs(POINTS) < 10].max() < 3e-7
    assert error.max() < 2e-6
    assert got.min() > 0
    assert np.isfinite(got).all()


def test_exp_of_what_is_never_positive(compiled, target):
    points = -np.abs(POINTS)

    def function(x):
        return activation.te_exp(x, positive=False)

    got = compiled(kernel_of(function, len(points)), target)([points])[0]
    wanted = np.exp(np.maximum(points.astype(np.float64), LOW))
    np.testing.assert_allclose(got, wanted, rtol=2e-6)


def test_the_short_exponential(compiled, target):
    points = -np.abs(POINTS)
    got = compiled(kernel_of(activation.te_short_exp, len(points)), target)([points])[0]
    wanted = np.exp(np.maximum(points.astype(np.float64), -120 * np.log(2)))
    np.testing.assert_allclose(got, activation.short_exp_reference(points), rtol=1e-5)
    error = np.abs(got / wanted - 1)
    assert 1e-4 < error[points > -80].max() <= activation.SHORT_EXP_ERROR
    assert error.max() <= activation.SHORT_EXP_ERROR + 1e-5


def test_functions_leave_no_call_of_a_library(target):
    for name in FUNCTIONS:
        script = default_schedule(kernel_of(getattr(activation, name), 64), target).mod.script()
        assert "T.exp(" not in script, name
        assert "T.tanh(" not in script, name
        assert "T.erf(" not in script, name
