"""A phone that heats up gives a burst, a steady state and a drop."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.conditions.drift import flags
from codesign.conditions.sustained import Plan, Timed, run_sustained, sustained


def test_a_phone_that_heats_up_loses_speed(clock, hot_phone):
    phone, plan = hot_phone(), Plan(minutes=8)
    before = phone.state()
    samples = run_sustained(phone.block, plan, clock.now)
    found = sustained(samples, plan)
    after = phone.state()
    assert len(found.per_minute) == 8
    assert found.burst_seconds == pytest.approx(phone.cost, rel=0.01)
    assert found.steady_seconds == pytest.approx(phone.cost / phone.share, rel=0.05)
    assert found.drop == pytest.approx(1 - phone.share, abs=0.03)
    assert found.slows
    assert found.settled
    assert "slower" in str(found)
    assert found.per_minute[0].lo <= found.per_minute[0].seconds <= found.per_minute[0].hi
    told = " | ".join(flags([s.seconds for s in samples], (), before, after))
    assert "slower while it was timed" in told
    assert "the clock of processor 0 and of 3 more fell from 2.00 to" in told
    assert "temperature of cpu went from 30 to" in told
    assert "throttled" in told


def test_a_phone_on_ice_does_not(clock, hot_phone):
    phone, plan = hot_phone(start_c=10.0), Plan(minutes=3)
    phone.ambient = -20.0
    found = sustained(run_sustained(phone.block, plan, clock.now), plan)
    assert abs(found.drop) < 0.01
    assert not found.slows
    assert "no loss that can be told from chance" in str(found)


def test_a_run_that_was_too_short_says_so(clock, hot_phone):
    phone = hot_phone(start_c=44.0)
    plan = Plan(minutes=2)
    found = sustained(run_sustained(phone.block, plan, clock.now), plan)
    assert not found.settled
    assert "not settled yet" in str(found)
    assert found.to_json()["settled"] is False


def test_a_short_run_has_one_bin(clock, hot_phone):
    plan = Plan(minutes=0.25)
    found = sustained(run_sustained(hot_phone().block, plan, clock.now), plan)
    assert len(found.per_minute) == 1
    assert not found.settled
    assert found.steady.start > 9


def test_between_is_called_after_each_block(clock, hot_phone):
    calls = []
    phone = hot_phone()
    run_sustained(phone.block, Plan(minutes=0.1), clock.now, lambda: calls.append(clock.now()))
    assert len(calls) >= 6
    assert calls == sorted(calls)


@pytest.mark.parametrize("options", [{"minutes": 0}, {"minutes": 1, "burst_seconds": 90}])
def test_impossible_plans(options):
    with pytest.raises(ValueError, match="impossible"):
        Plan(**options)


def test_blocks_that_take_no_time_end_the_run():
    with pytest.raises(ValueError, match="no time"):
        run_sustained(lambda: [1.0], Plan(minutes=1), lambda: 0.0)
    with pytest.raises(ValueError, match="without samples"):
        sustained([], Plan(minutes=1))


@given(
    st.lists(st.tuples(st.floats(0, 400), st.floats(1e-4, 1.0)), min_size=1, max_size=60),
    st.floats(0.1, 6),
)
def test_every_sample_is_in_a_bin_and_every_median_within_its_interval(pairs, minutes):
    plan = Plan(minutes)
    found = sustained([Timed(*p) for p in pairs], plan)
    assert sum(b.count for b in found.per_minute) == len(pairs)
    for timing in (*found.per_minute, found.burst, found.steady):
        assert timing.lo <= timing.seconds <= timing.hi
    assert found.drop < 1
    if found.slows:
        assert found.steady_seconds > found.burst_seconds


def test_noise_alone_is_no_drop():
    rng = random.Random(3)
    plan = Plan(minutes=4)
    samples = [Timed(i * 0.5, 0.01 * rng.gauss(1, 0.05)) for i in range(480)]
    assert not sustained(samples, plan).slows
