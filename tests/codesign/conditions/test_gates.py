"""Gates, and waiting that always ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.conditions.gates import BOARD, HOST, OPEN, PHONE, Gate, wait_until_fit
from codesign.conditions.state import Battery, DeviceState


def heated(phone, seconds):
    """Work until that much time has passed."""
    end = phone.clock.now() + seconds
    while phone.clock.now() < end:
        phone.block()
    return phone


def test_a_cool_phone_passes_at_once(clock, hot_phone):
    phone = hot_phone()
    outcome = wait_until_fit(phone.state, PHONE, 300, clock.sleep, clock.now)
    assert (outcome.status, outcome.waited_seconds, outcome.reasons) == ("fit", 0.0, ())
    assert str(outcome) == "fit"


def test_a_hot_phone_is_waited_for_and_says_why(clock, hot_phone):
    phone, told = heated(hot_phone(), 240), []
    assert phone.state().throttled
    outcome = wait_until_fit(phone.state, PHONE, 600, clock.sleep, clock.now, told.append)
    assert outcome.fit
    assert 5 <= outcome.waited_seconds <= 600
    assert outcome.state.hottest[1] <= 45
    assert told[0].startswith("waiting up to 600 s: temperature: ")
    assert "(allowed: 45 °C)" in told[0]


def test_a_phone_in_the_sun_is_not_waited_for_for_ever(clock, hot_phone):
    phone = hot_phone()
    phone.ambient = 60.0
    phone.temperature = 70.0
    outcome = wait_until_fit(phone.state, PHONE, 120, clock.sleep, clock.now)
    assert (outcome.status, outcome.waited_seconds) == ("unfit", 120.0)
    assert outcome.reasons[0].what == "temperature"
    assert "unfit after 120 s: temperature: 6" in str(outcome)


def test_what_no_time_mends_is_not_waited_for(clock, hot_phone):
    phone = hot_phone(start_c=60.0)
    empty = Battery(percent=7.0, status="Discharging")
    outcome = wait_until_fit(
        lambda: replace(phone.state(), battery=empty), PHONE, 600, clock.sleep, clock.now
    )
    assert (outcome.status, outcome.waited_seconds) == ("unfit", 0.0)
    assert "battery: 7 % (allowed: 20 % or more)" in str(outcome)


def test_what_is_not_told_is_never_fit():
    outcome = wait_until_fit(DeviceState, PHONE, 60)
    assert outcome.status == "unknown"
    assert not outcome.fit
    assert set(outcome.untold) == {
        "temperature", "throttling", "load", "battery charge", "free memory", "free disk",
    }  # fmt: skip
    assert str(outcome).startswith("unknown; not told: temperature")
    assert "battery charge" in PHONE.untold(DeviceState(battery=Battery()))
    assert "battery charge" not in BOARD.untold(DeviceState())
    assert "battery charge" not in HOST.untold(DeviceState())


def test_nothing_asked_is_fit_whatever_is_told():
    assert wait_until_fit(DeviceState, OPEN, 0).fit
    hot = DeviceState(temperatures_c={"cpu": 140.0}, throttled=True)
    assert OPEN.check(hot) == []
    assert Gate(allow_throttled=True).check(DeviceState(throttled=True)) == []


def test_a_clock_that_stands_still_ends_too():
    """A machine that sleeps, or a clock that is set back, must not make it endless."""
    looks = []

    def read():
        looks.append(1)
        return DeviceState(temperatures_c={"cpu": 90.0})

    outcome = wait_until_fit(read, PHONE, 60, lambda s: None, lambda: 5.0, every_seconds=2)
    assert outcome.status == "unfit"
    assert len(looks) == 31


def test_each_limit_names_itself():
    names = ["0", "1"]
    state = DeviceState(
        {"cpu": 50.0}, dict.fromkeys(names, 1e6), dict.fromkeys(names, 2e6),
        dict.fromkeys(names, "performance"), 1.5, 1, 1, Battery(5.0), True,
    )  # fmt: skip
    gate = replace(PHONE, min_clock_share=0.9)
    reasons = gate.check(state)
    assert [r.what for r in reasons] == [
        "temperature", "throttling", "clock", "load", "battery", "free memory", "free disk",
    ]  # fmt: skip
    assert "50% of the highest at processor 0" in reasons[2].got
    assert gate.untold(state) == []
    asleep = replace(state, governors=dict.fromkeys(names, "schedutil"))
    assert gate.untold(asleep) == ["clock under load"]
    assert "clock" not in [r.what for r in gate.check(asleep)]


numbers = st.none() | st.floats(0, 120)
states = st.builds(
    DeviceState,
    temperatures_c=st.dictionaries(st.sampled_from(["cpu", "skin"]), st.floats(0, 120)),
    load=st.none() | st.floats(0, 8),
    memory_free_bytes=st.none() | st.integers(0, 1 << 30),
    disk_free_bytes=st.none() | st.integers(0, 1 << 30),
    battery=st.none() | st.builds(Battery, percent=st.none() | st.floats(0, 100)),
    throttled=st.sampled_from([None, False, True]),
)
limits = st.builds(
    Gate,
    max_temperature_c=numbers,
    min_clock_share=st.none() | st.floats(0, 1),
    max_load=st.none() | st.floats(0, 8),
    min_battery_percent=st.none() | st.floats(0, 100),
    min_memory_bytes=st.none() | st.integers(0, 1 << 30),
    min_disk_bytes=st.none() | st.integers(0, 1 << 30),
    allow_throttled=st.booleans(),
)


@given(st.lists(states, min_size=1, max_size=8), limits, st.floats(0, 300), st.floats(0.5, 60))
def test_waiting_is_bounded_and_never_passes_what_it_should_not(many, gate, patience, every):
    time = [0.0]
    left = list(many)

    def sleep(seconds):
        assert 0 < seconds <= every
        time[0] += seconds

    def read():
        return left.pop(0) if len(left) > 1 else left[0]

    outcome = wait_until_fit(
        read, gate, patience, sleep, lambda: time[0], lambda text: None, every_seconds=every
    )
    assert outcome.waited_seconds <= patience + 1e-6
    assert outcome.reasons == tuple(gate.check(outcome.state))
    assert outcome.untold == tuple(gate.untold(outcome.state))
    assert outcome.fit == (not outcome.reasons and not outcome.untold)
    assert (outcome.status == "unfit") == bool(outcome.reasons)


@given(states, limits)
def test_a_limit_is_either_told_or_listed(state, gate):
    """No reason comes of a reading that is not there, and none is both broken and untold."""
    names = {"free memory": "free memory", "free disk": "free disk", "temperature": "temperature",
             "throttling": "throttling", "load": "load", "battery": "battery charge",
             "clock": "clock under load"}  # fmt: skip
    broken = {names[r.what] for r in gate.check(state)}
    assert not broken & set(gate.untold(state))


@pytest.mark.parametrize("every", [1.0, 7.0])
def test_json_of_an_outcome(clock, hot_phone, every):
    phone = hot_phone(start_c=46.0)
    outcome = wait_until_fit(
        phone.state, PHONE, 600, clock.sleep, clock.now, every_seconds=every
    ).to_json()
    assert outcome["status"] == "fit"
    assert outcome["waited_seconds"] >= every
