"""Each device is compared with itself alone, by what the reference kernel takes there."""

from __future__ import annotations

import pytest

from codesign.fleet.calibration import RESTLESS, Calibration


def test_a_slow_spell_is_told_with_how_slow_it_is():
    calibration = Calibration()
    assert [calibration.add("a", 1e-3) for _ in range(5)] == [""] * 5
    assert calibration.add("a", 4e-3) == "the device ran at 0.25 of its usual speed"
    assert calibration.add("a", 1.1e-3) == ""


def test_what_is_just_at_the_bound_is_usual():
    calibration = Calibration()
    calibration.add("a", 1e-3)
    assert calibration.add("a", RESTLESS * 1e-3) == ""


def test_the_first_time_is_the_usual_one():
    assert Calibration().add("a", 100.0) == ""


def test_a_slow_device_beside_a_fast_one_is_not_unusual():
    calibration = Calibration()
    for _ in range(4):
        assert calibration.add("fast", 1e-3) == ""
        assert calibration.add("slow", 10e-3) == ""
    assert calibration.usual() == pytest.approx({"fast": 1e-3, "slow": 10e-3})
    assert calibration.add("fast", 10e-3) != ""


def test_one_outlier_does_not_move_the_median():
    calibration = Calibration()
    for seconds in (1.0, 1.0, 50.0, 1.0):
        calibration.add("a", seconds)
    assert calibration.usual() == {"a": 1.0}


def test_a_device_that_stays_slow_becomes_usual_so():
    calibration = Calibration()
    for _ in range(10):
        calibration.add("a", 1.0)
    flagged = [calibration.add("a", 5.0) for _ in range(100)]
    assert flagged[0] != ""
    assert flagged[-1] == ""
    assert calibration.usual() == {"a": 5.0}


def test_without_measurements_nothing_is_usual():
    assert Calibration().usual() == {}
