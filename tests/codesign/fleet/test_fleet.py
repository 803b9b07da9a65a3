"""What a fleet knows before anything fails: its key's queue, its patience, and what shows that a device is well."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address
from codesign.errors import UserError
from codesign.fleet import Examination, Fleet, NoDeviceError, Wanted
from codesign.fleet.fleet import _in_a_line
from codesign.fleet.tracker import Queue, queue_of
from codesign.worker import Failure, Reply

EXPECTED = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("blobs", "passed"),
    [
        ((EXPECTED.tobytes(),), True),
        (((EXPECTED * (1 + 5e-4)).tobytes(),), True),
        (((EXPECTED + 0.1).tobytes(),), False),
        ((np.full_like(EXPECTED, np.nan).tobytes(),), False),
        ((EXPECTED.tobytes()[:-4],), False),
        ((EXPECTED.tobytes(), b""), False),
        ((), False),
    ],
)
def test_an_examination_is_passed_by_the_right_output_only(blobs, passed):
    examination = Examination({}, (), EXPECTED)
    assert examination.passed(Reply(None, blobs)) is passed


@pytest.fixture(scope="module")
def tracker():
    with TrackerThread() as thread:
        yield thread.address


def test_a_key_that_nobody_registered_has_an_empty_queue(tracker):
    assert queue_of(tracker, "nobody") == Queue(0, 0, 0)


def test_a_tracker_that_is_not_there_is_an_error_in_time():
    began = time.monotonic()
    with pytest.raises(UserError, match="tracker"):
        queue_of(Address("127.0.0.1", 1), "pi")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("answers", [True, False])
def test_without_devices_there_is_no_fleet(tracker, answers):
    where = tracker if answers else Address("127.0.0.1", 1)
    began = time.monotonic()
    with pytest.raises(NoDeviceError) as error:
        Fleet(Wanted(where, "nobody"), patience=0.5)
    assert time.monotonic() - began < 8
    text = str(error.value)
    assert "no device of 'nobody' could be had" in text
    assert f"codesign devices list --tracker {where}" in text


def test_an_error_fits_in_a_line():
    error = UserError("it broke", got="a lot", allowed="nothing", next="mend it")
    assert _in_a_line(error) == "it broke: a lot"
    assert _in_a_line(UserError("it broke")) == "it broke"


def test_a_fleet_that_is_closed_leaves_nothing_behind(farm):
    before = {t.name for t in threading.enumerate()}
    fleet = Fleet(Wanted(farm.tracker, "device"))
    reply = fleet.request("ask_device", {"what": "device.info"})
    assert not isinstance(reply, Failure), reply
    assert reply.result["name"] == "one"
    fleet.close()
    fleet.close()
    assert all(member.worker.pid is None for member in fleet.members)
    until = time.monotonic() + 15
    while queue_of(farm.tracker, "device").free == 0:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not {t.name for t in threading.enumerate() if t.name.startswith("device")} - before


def test_closing_ends_a_request_that_is_on_its_way(farm):
    fleet = Fleet(Wanted(farm.tracker, "device"))
    assert not isinstance(fleet.request("ping"), Failure)
    # a key that nobody has: the worker hangs in a function of the device until it is killed
    waits = fleet.submit("no such request")
    fleet.close()
    found = waits.result(timeout=10) if not waits.cancelled() else Failure("device", "cancelled")
    assert isinstance(found, Failure)


def test_several_devices_work_side_by_side(farm):
    farm.start("two")
    with Fleet(Wanted(farm.tracker, "device")) as fleet:
        assert fleet.parallel == len(fleet.members) == 2
        asked = [fleet.submit("ask_device", {"what": "device.info"}) for _ in range(12)]
        names = {a.result().result["name"] for a in asked}
        assert names == {"one", "two"}
        assert fleet.diary.incidents == []
