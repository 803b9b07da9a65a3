"""Circuit breakers by a clock of the tests: rests grow, end, and are forgotten by what works."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codesign.fleet.breaker import FIRST_REST, LONGEST_REST, Breakers


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_device_that_never_failed_may_be_used():
    breakers = Breakers(Clock())
    assert breakers.resting("a") == 0
    assert breakers.sick() == ()
    assert breakers.worked("a") is False


def test_each_rest_is_twice_the_one_before_up_to_the_longest():
    clock = Clock()
    breakers = Breakers(clock)
    rests = []
    for _ in range(10):
        rests.append(breakers.failed("a"))
        assert breakers.resting("a") == rests[-1]
        clock.now += rests[-1]
    assert rests[:4] == [FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST, 8 * FIRST_REST]
    assert rests[-1] == LONGEST_REST == max(rests)
    assert rests == sorted(rests)


def test_a_rest_that_is_over_is_a_trial_and_no_acquittal():
    clock = Clock()
    breakers = Breakers(clock)
    rest = breakers.failed("a")
    clock.now += rest - 0.5
    assert breakers.resting("a") == 0.5
    clock.now += 1.0
    assert breakers.resting("a") == 0
    assert breakers.sick() == ("a",)  # half open
    assert breakers.failed("a") == 2 * rest


def test_one_success_closes_it():
    clock = Clock()
    breakers = Breakers(clock)
    breakers.failed("a")
    breakers.failed("a")
    assert breakers.worked("a") is True
    assert breakers.worked("a") is False
    assert breakers.resting("a") == 0
    assert breakers.sick() == ()
    assert breakers.failed("a") == FIRST_REST


def test_devices_do_not_answer_for_each_other():
    breakers = Breakers(Clock())
    breakers.failed("a")
    assert breakers.resting("b") == 0
    assert breakers.worked("b") is False
    assert breakers.failed("b") == FIRST_REST
    assert breakers.sick() == ("a", "b")


STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["failed", "worked", "wait"])))


@given(STEPS)
def test_whatever_happens_rests_are_bounded_and_only_failures_are_sick(steps):
    clock = Clock()
    breakers = Breakers(clock)
    last: dict[str, str] = {}
    for device, step in steps:
        if step == "wait":
            clock.now += 7.0
            continue
        last[device] = step
        if step == "failed":
            assert FIRST_REST <= breakers.failed(device) <= LONGEST_REST
        else:
            breakers.worked(device)
        assert 0 <= breakers.resting(device) <= LONGEST_REST
    assert set(breakers.sick()) == {d for d, step in last.items() if step == "failed"}
