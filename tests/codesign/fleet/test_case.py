"""Who is to blame for a request that fails: never the request alone on the word of a sick device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codesign.fleet.case import STRIKES, Case
from codesign.worker import Failure

CRASH = Failure("crash", "the connection is gone")


def test_a_new_request_is_not_guilty():
    assert not Case("time_kernel").guilty


def test_two_strikes_on_one_device_that_is_well():
    case = Case("time_kernel")
    for strike in range(1, STRIKES + 1):
        case.failed("a", CRASH)
        assert case.guilty == (strike > STRIKES)
        case.found_well("a")
        assert case.guilty == (strike >= STRIKES)


def test_being_found_well_twice_is_one_strike():
    case = Case("time_kernel")
    case.failed("a", CRASH)
    for _ in range(5):
        case.found_well("a")
    assert not case.guilty


def test_devices_on_which_it_did_not_fail_do_not_count():
    case = Case("time_kernel")
    case.failed("a", CRASH)
    case.found_well("b")
    case.found_well("c")
    assert not case.guilty


def test_a_dying_device_alone_never_makes_it_guilty():
    case = Case("time_kernel")
    for _ in range(20):
        case.failed("a", CRASH)
    for device in "bcd":
        case.failed(device, CRASH)
    assert not case.guilty


def test_a_stray_failure_and_a_dying_device_do_not_make_it_guilty():
    case = Case("time_kernel")
    case.failed("a", CRASH)
    case.failed("b", CRASH)
    case.found_well("a")
    assert not case.guilty
    case.found_well("b")  # it was not dying: two devices that are well failed with it
    assert case.guilty


def test_the_verdict_has_the_last_failure_and_where_it_was():
    case = Case("time_kernel")
    case.failed("b", CRASH)
    case.failed("a", Failure("timeout", "no answer in 10 s"))
    verdict = case.verdict()
    assert verdict.kind == "timeout"
    assert verdict.text.startswith("no answer in 10 s")
    assert verdict.text.endswith("well otherwise: a, b")


EVENTS = st.lists(st.tuples(st.sampled_from(["failed", "well"]), st.sampled_from("abc")))


@given(EVENTS)
def test_guilt_needs_a_device_found_well_after_it_failed_there(events):
    case = Case("time_kernel")
    open_, strikes, was = set(), 0, False
    for event, device in events:
        if event == "failed":
            case.failed(device, CRASH)
            open_.add(device)
        else:
            case.found_well(device)
            strikes += device in open_
            open_.discard(device)
        assert case.guilty == (strikes >= STRIKES)
        assert case.guilty >= was  # once guilty, always
        was = case.guilty
        if strikes == 0:
            assert not case.guilty
