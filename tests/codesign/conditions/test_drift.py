"""Trends, outliers and changes of state, each named and nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.conditions import noted
from codesign.conditions.drift import flags, outliers, trend
from codesign.conditions.energy import Energy
from codesign.conditions.gates import PHONE, wait_until_fit
from codesign.conditions.state import Battery, DeviceState
from codesign.measurement import Measurement, summarize


def noisy(count, slope=0.0, noise=0.01, seed=1):
    rng = random.Random(seed)
    return [1e-3 * (1 + slope * i / (count - 1)) * rng.gauss(1, noise) for i in range(count)]


def test_a_quiet_measurement_has_no_flags():
    assert flags(noisy(30), noisy(31, seed=2)) == ()
    assert flags([1e-3] * 10) == ()
    assert flags([]) == ()
    assert flags([1e-3]) == ()


def test_false_alarms_are_rare():
    found = sum(trend(noisy(30, noise=0.05, seed=s)) != 0 for s in range(300))
    assert found <= 9  # 1 % is expected


def test_a_trend_is_named_with_its_size():
    assert trend(noisy(30, 0.2)) == pytest.approx(
        1.18 / 1.02 - 1, rel=0.1
    )  # middle of the quarters
    assert flags(noisy(30, 0.2)) == ("became 17% slower while it was timed",)
    assert "faster" in flags(noisy(30, -0.2))[0]


def test_drift_of_the_device_is_told_from_drift_of_the_kernel():
    both = flags(noisy(30, 0.2), noisy(31, 0.2, seed=2))
    assert both == ("the device became 17% slower meanwhile; so did the reference, ratios hold",)
    alone = flags(noisy(30, 0.2), noisy(31, seed=2))
    assert "against the reference" in alone[0]


def test_outliers_are_counted():
    samples = noisy(30)
    samples[7] *= 3
    samples[20] *= 1.5
    assert outliers(samples) == [7, 20]
    assert flags(samples) == ("2 of 30 blocks are outliers, up to 3 times the median",)
    assert outliers([1.0, 1.0, 1.0, 1.0, 1.0, 1.05]) == []  # no spread at all, but not far either
    assert outliers([1.0, 9.0]) == []


def test_a_long_run_is_judged_in_time():
    assert trend(noisy(20_000, 0.3)) == pytest.approx(1.285 / 1.015 - 1, rel=0.05)


def state(temperature=40.0, clock=2e6, governor="performance", status="Discharging", **more):
    names = ("4", "5")
    return DeviceState(
        {"cpu": temperature}, dict.fromkeys(names, clock), dict.fromkeys(names, 2e6),
        dict.fromkeys(names, governor), battery=Battery(status=status), **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (state(), ()),
        (state(temperature=44.0), ()),
        (state(temperature=52.0), ("temperature of cpu went from 40 to 52 °C",)),
        (
            state(clock=1.4e6),
            ("the clock of processor 4 and of 1 more fell from 2.00 to 1.40 GHz",),
        ),
        (state(clock=1.4e6, governor="schedutil"), ()),  # an idle processor sleeps
        (state(status="Charging"), ("the battery went from discharging to charging",)),
        (state(throttled=True), ("the device said that it was throttled at the end",)),
        (DeviceState(), ()),
    ],
)
def test_changes_of_state(after, words):
    assert flags([1e-3] * 10, (), state(), after) == words


@given(st.lists(st.floats(1e-6, 10.0), max_size=60), st.booleans())
def test_any_samples_can_be_judged(samples, paired):
    reference = [1e-3] * (len(samples) + 1) if paired else []
    found = flags(samples, reference)
    assert all(isinstance(text, str) and text for text in found)
    assert flags(samples, reference) == found
    assert trend(samples) == pytest.approx(trend([2 * s for s in samples]))  # free of units


@given(st.lists(st.floats(1e-3, 1.0), min_size=6, max_size=60))
def test_what_runs_backwards_drifts_backwards(samples):
    assert (trend(samples) > 0) == (trend(samples[::-1]) < 0)


def test_what_was_seen_goes_into_the_meta(clock, hot_phone):
    samples = noisy(30, 0.2)
    before = hot_phone(start_c=50.0).state()
    gate = wait_until_fit(lambda: before, PHONE, 0, clock.sleep, clock.now)
    measured = summarize(samples, noisy(31, seed=2)).with_meta(device="serial", flags=["old"])
    found = noted(measured, noisy(31, seed=2), before, state(), gate=gate,
                  energy=Energy.unavailable("no battery"))  # fmt: skip
    assert found.meta["device"] == "serial"
    assert found.meta["flags"][0] == "old"
    assert "against the reference" in found.meta["flags"][1]
    assert any("the device was unfit: temperature" in flag for flag in found.meta["flags"])
    assert found.meta["energy"]["reason"] == "not available: no battery"
    assert found.meta["state"]["before"]["temperature_c"] == 50.0
    assert Measurement.from_json(found.to_json()) == found
    assert noted(summarize([1e-3] * 3)).meta == {}
    assert noted(Measurement.failed("died"), (), state(), state(temperature=80)).meta["flags"]
