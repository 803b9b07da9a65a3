"""Static codes: what they span, what they clip, and how channels share the error with their weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from passes.errors import PassError
from passes.solve.ranges import Codes, fitted
from passes.solve.values import Values
from targets.kernels.quantize_static import quantize_static_reference

rng = np.random.default_rng(6)
METHODS = ("minmax", "mse", "percentile 99.9")


def values_of(x):
    values = Values(x.shape[1])
    values.add(np.asarray(x, np.float32))
    return values


def tailed(rows=300, columns=40):
    """Most values are small, a few are large; channels differ in what they span."""
    x = rng.laplace(size=(rows, columns)) * np.geomspace(0.1, 3, columns)
    return np.where(x > 0, 2 * x, x).astype(np.float32)


def weight_of(x, rows=30):
    return rng.standard_normal((rows, x.shape[1])).astype(np.float32)


def fit(x, method, weight=None, taps=1):
    return fitted(values_of(x), weight_of(x) if weight is None else weight, method, taps)


def output_error(x, codes, weight):
    """With weights rounded to nearest on rows of their own, in the steps of the inputs."""
    scaled = weight * codes.scale.astype(np.float64)
    unit = np.abs(scaled).max(1, keepdims=True) / 127
    seen = np.rint(scaled / unit) * unit / codes.scale
    return np.square(
        codes.of(x).astype(np.float64) @ seen.T - x.astype(np.float64) @ weight.T
    ).sum()


def test_codes_are_those_of_the_kernel():
    x = tailed()
    codes = fit(x, "percentile 99")
    q = quantize_static_reference(x, codes.scale, codes.zero).astype(np.float32)
    difference = np.abs(codes.of(x) - (q - codes.zero) * codes.scale) / codes.scale
    assert difference.max() < 1.01
    assert difference.mean() < 1e-3


def test_minmax_clips_nothing_and_gives_every_channel_its_own_steps():
    x = tailed()
    codes = fit(x, "minmax")
    np.testing.assert_allclose(codes.scale, (x.max(0) - x.min(0)) / 255, rtol=1e-5)
    assert (np.abs(codes.of(x) - x) <= 1.01 * codes.scale).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(arrays(np.float32, (3, 5), elements=st.floats(-1e6, 1e6, width=32)))
def test_zero_is_a_code_of_every_channel(x):
    for method in METHODS:
        codes = fit(x, method, np.ones((2, 5), np.float32))
        assert np.isfinite(codes.scale).all()
        assert (codes.scale > 0).all()
        assert ((codes.zero >= 0) & (codes.zero <= 255)).all()
        assert np.isfinite(codes.of(x)).all()
        assert (codes.of(np.zeros((1, 5), np.float32)) == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_one_sided_inputs_waste_no_code_on_a_sign(method):
    x = np.maximum(tailed(), 0)
    x[:, 7] *= -1
    zero = fit(x, method).zero
    assert zero[7] == 255
    assert (np.delete(zero, 7) == 0).all()


def test_own_steps_are_better_than_one_for_all():
    x = tailed()
    weight = weight_of(x)
    codes = fit(x, "minmax", weight)
    spread = x.max() - x.min()
    zero = np.full(40, np.rint(-x.min() / spread * 255), np.int32)
    one = Codes(np.full(40, spread / 255, np.float32), zero)
    assert output_error(x, codes, weight) < 0.7 * output_error(x, one, weight)


def test_weights_that_cannot_bear_the_differences_do_not_get_them_all():
    """One wide channel whose weights are as large as any: all others would get one coarse step."""
    x = rng.standard_normal((300, 40)).astype(np.float32)
    x[:, 3] *= 200
    weight = weight_of(x)
    own = Codes(((x.max(0) - x.min(0)) / 255).astype(np.float32), np.full(40, 128, np.int32))
    codes = fit(x, "minmax", weight)
    assert codes.scale[3] < 100 * codes.scale[0]
    assert output_error(x, codes, weight) < 0.7 * output_error(x, own, weight)


def test_the_search_beats_other_shares_by_its_own_measure():
    x = tailed(3000)
    weight = weight_of(x)
    scale = [np.unique(np.round(fit(x, m, weight).scale / fit(x, "minmax", weight).scale, 3))
             for m in METHODS]  # fmt: skip
    assert scale[0].tolist() == [1.0]
    assert all(len(s) == 1 and 0.2 < s[0] <= 1 for s in scale)
    errors = {m: output_error(x, fit(x, m, weight), weight) for m in METHODS}
    assert errors["mse"] <= 1.02 * min(errors.values())


def test_percentiles_leave_out_the_tails():
    x = np.linspace(-1, 3, 10001, dtype=np.float32)[:, None]
    codes = fit(x, "percentile 99")
    assert codes.scale[0] * 255 == pytest.approx(4 * 0.99, rel=5e-3)
    assert (np.abs(codes.of(x) - x) > 0.51 * codes.scale[0]).mean() == pytest.approx(0.01, abs=4e-3)


def test_taps_of_a_channel_share_its_codes():
    x = tailed(300, 20)
    codes = fit(x, "minmax", taps=4)
    of_channels = x.reshape(300, 5, 4)
    spread = of_channels.max((0, 2)) - of_channels.min((0, 2))
    np.testing.assert_allclose(codes.scale, spread / 255, rtol=1e-5)
    assert codes.each(4).zero.tolist() == np.repeat(codes.zero, 4).tolist()


def test_zeros_and_errors():
    codes = fit(np.zeros((4, 3)), "mse")
    assert (codes.of(np.zeros((1, 3), np.float32)) == 0).all()
    with pytest.raises(PassError, match="without calibration data"):
        fitted(Values(3), np.ones((2, 3)), "mse")
    for method in ("kl", "percentile 20", "percentile 101"):
        with pytest.raises(PassError, match="unknown way"):
            fit(tailed(), method)
