"""Whether a device computes the same: the difference, and what it makes of a measurement."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.loop import agreement
from codesign.loop.agreement import EXACT, OF_ERROR, agreeing, relative_difference
from codesign.measurement import Measurement
from codesign.worker import Failure

RNG = np.random.default_rng(3)
Y = RNG.standard_normal((3, 5, 7)).astype(np.float32)


def test_the_same_has_no_difference():
    assert relative_difference({"y": Y}, {"y": Y}) == 0.0


@given(st.floats(-100, 100, width=32))
def test_a_scaled_output_differs_by_its_factor(factor):
    found = relative_difference({"y": Y.astype(np.float64) * factor}, {"y": Y})
    assert found == pytest.approx(abs(factor - 1), rel=1e-9, abs=1e-12)


def test_it_does_not_depend_on_the_scale_of_the_outputs():
    noisy = Y + 0.01 * RNG.standard_normal(Y.shape).astype(np.float32)
    one = relative_difference({"y": noisy}, {"y": Y})
    wanted = np.sqrt(np.mean((noisy.astype(float) - Y) ** 2) / np.mean(Y.astype(float) ** 2))
    assert one == pytest.approx(wanted)
    # a power of two, so that nothing is rounded otherwise
    assert relative_difference({"y": noisy * 1024}, {"y": Y * 1024}) == pytest.approx(one)


def test_of_several_outputs_the_largest_counts():
    there = {"a": Y, "b": Y * 1.5, "c": Y * 1.25}
    assert relative_difference(there, dict.fromkeys("abc", Y)) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_value_is_no_agreement(bad):
    spoilt = Y.copy()
    spoilt[1, 2, 3] = bad
    for there, here in (({"y": spoilt}, {"y": Y}), ({"y": Y}, {"y": spoilt})):
        difference = relative_difference(there, here)
        assert not difference <= 1e6


def test_a_bad_output_is_not_hidden_by_a_good_one():
    there = {"a": np.full(4, np.nan, np.float32), "b": Y}
    assert np.isnan(relative_difference(there, {"a": np.ones(4, np.float32), "b": Y}))


def test_where_all_is_zero_the_difference_is_absolute():
    zero = np.zeros((2, 3), np.float32)
    assert relative_difference({"y": zero}, {"y": zero}) == 0.0
    assert relative_difference({"y": zero + 0.25}, {"y": zero}) == pytest.approx(0.25)


def test_integers_and_halves_are_compared_as_numbers():
    there, here = np.array([127, -128], np.int8), np.array([-128, 127], np.int8)
    assert relative_difference({"y": there}, {"y": here}) == pytest.approx(2.0, rel=1e-2)
    big = np.full(8, 60000, np.float16)
    assert relative_difference({"y": big}, {"y": big}) == 0.0


class Predictor:
    """This machine, which computes ``Y``."""

    def __init__(self, bundle):
        assert bundle == "the twin"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, sample):
        assert sample == {"x": 1}
        return {"y": Y}


def compared(monkeypatch, there, output_error=None):
    monkeypatch.setattr(agreement, "Predictor", Predictor)
    manifest = {"extra": {} if output_error is None else {"output_error": output_error}}
    bundle = SimpleNamespace(path=Path("on the device"), manifest=manifest)

    def run(path, sample):
        assert path == Path("on the device")
        return there

    built = SimpleNamespace(bundle=bundle, runs_here="the twin")
    measured = Measurement(seconds=1e-3, meta={"device": "pi"})
    return agreeing(measured, SimpleNamespace(run=run), built, {"x": 1})


def test_a_measurement_keeps_what_it_has_and_gets_the_difference(monkeypatch):
    found = compared(monkeypatch, {"y": Y})
    assert found.ok
    assert found.meta == {"device": "pi", "difference": 0.0}


@pytest.mark.parametrize("output_error", [None, 0.0, 0.1])
def test_what_may_differ_grows_with_the_error_of_the_compression(monkeypatch, output_error):
    allowed = EXACT + OF_ERROR * (output_error or 0.0)
    there = {"y": Y.astype(np.float64) * (1 + 0.9 * allowed)}
    assert compared(monkeypatch, there, output_error).ok
    wrong = compared(monkeypatch, {"y": Y.astype(np.float64) * (1 + 1.1 * allowed)}, output_error)
    assert not wrong.ok
    assert wrong.meta["stage"] == "agreement"
    assert "not those of this machine" in str(wrong.error)


def test_no_number_is_no_agreement(monkeypatch):
    assert not compared(monkeypatch, {"y": np.full_like(Y, np.nan)}, 1.0).ok


def test_a_device_that_fails_is_told_as_that(monkeypatch):
    found = compared(monkeypatch, Failure("crash", "the server is gone"))
    assert found.meta["kind"] == "crash"
    assert "the server is gone" in str(found.error)
