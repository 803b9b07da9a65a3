"""What a fleet knows before anything fails: its key's queue, its patience, and what shows that a device is well."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from benchmarks.faults.farm import KEY, Farm
from codesign.build import KernelSource
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address
from codesign.errors import UserError
from codesign.fleet import Examination, Fleet, NoDeviceError, Wanted
from codesign.fleet.fleet import _in_a_line
from codesign.fleet.tracker import Queue, queue_of
from codesign.measure import Rig
from codesign.measurement import Protocol
from codesign.reference_kernel import reference_kernel
from codesign.worker import Failure, Reply
from targets.target import host

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
    look = f"codesign doctor --device nobody --tracker {where}"
    assert (look if answers else "codesign devices tracker --port 1; then") in text
    assert ("keys there: none" if answers else "Connection refused") in text


def test_what_is_waited_for_is_said_at_once(tracker):
    said = []
    with pytest.raises(NoDeviceError):
        Fleet(Wanted(tracker, "nobody"), said.append, patience=0.5)
    assert len(said) == 1
    assert said[0].startswith("nobody: the tracker knows no device of this key")


def _registered(tracker, key, **change):
    """A tracker's answer that knows one server."""
    server = {
        "key": key, "address": "10.0.0.2:9090", "state": "free", "draining": False, "last_seen_s": 1.0,
    }  # fmt: skip
    return {"servers": [server | change], "queues": {}, "stock": False}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": "gone", "last_seen_s": 861.2}, "10.0.0.2:9090 is gone, last seen 861 s ago"),
        ({"state": "draining", "draining": True}, "is drained: codesign devices resume pi"),
    ],
)
def test_a_device_that_is_gone_or_drained_is_not_waited_for_long(
    tracker, monkeypatch, change, says
):
    monkeypatch.setattr(
        "codesign.fleet.tracker.TrackerClient.status",
        lambda _: _registered(tracker, "pi", **change),
    )
    assert queue_of(tracker, "pi").servers == 0
    began = time.monotonic()
    with pytest.raises(NoDeviceError) as error:
        Fleet(Wanted(tracker, "pi"), patience=0.5)
    assert time.monotonic() - began < 8
    assert says in str(error.value)


def test_a_device_that_went_away_in_a_run_is_waited_for_and_said_once(runs_servers):
    said = []
    with Farm() as farm:
        farm.start("one")
        with Fleet(Wanted(farm.tracker, KEY), said.append, patience=3.0) as fleet:
            assert not isinstance(fleet.request("ask_device", {"what": "device.info"}), Failure)
            for member in fleet.members:
                member.give_back()
            farm.devices["one"].kill()
            with pytest.raises(NoDeviceError, match="could be had for"):
                fleet.request("ask_device", {"what": "device.info"})
    waits = [line for line in said if "waits up to 3 s" in line]
    assert len(waits) == 1
    assert "is gone" in waits[0]


def test_more_threads_than_a_device_has_are_refused_at_once(farm):
    said, began = [], time.monotonic()
    with (
        Fleet(Wanted(farm.tracker, KEY, threads=4096), said.append) as fleet,
        pytest.raises(NoDeviceError, match="fewer processors than that") as error,
    ):
        fleet.request("ask_device", {"what": "device.info"})
    assert time.monotonic() - began < 20
    assert "not 4096" in error.value.got
    assert error.value.next == "a smaller --threads"
    assert not any("rests" in line for line in said)


def test_an_error_fits_in_a_line():
    error = UserError("it broke", got="a lot", allowed="nothing", next="mend it")
    assert _in_a_line(error) == "it broke: a lot"
    assert _in_a_line(UserError("it broke")) == "it broke"


def test_a_fleet_that_is_closed_leaves_nothing_behind(farm):
    before = {t.name for t in threading.enumerate()}
    fleet = Fleet(Wanted(farm.tracker, KEY))
    reply = fleet.request("ask_device", {"what": "device.info"})
    assert not isinstance(reply, Failure), reply
    assert reply.result["name"] == "one"
    fleet.close()
    fleet.close()
    assert all(member.worker.pid is None for member in fleet.members)
    until = time.monotonic() + 15
    while queue_of(farm.tracker, KEY).free == 0:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not {t.name for t in threading.enumerate() if t.name.startswith("device")} - before


def test_closing_ends_a_request_that_is_on_its_way(farm):
    long = Protocol(repeats=100_000, min_block_ms=50, max_seconds=100)
    with Rig(host(), Protocol()) as here:
        (built,) = here.build([KernelSource("reference", reference_kernel())])
        params = {**built.to_json(), "protocol": long.to_json(), "give_up": None, "seed": 0}
        fleet = Fleet(Wanted(farm.tracker, KEY))
        waits = fleet.submit("time_kernel", params, deadline=120)
        until = time.monotonic() + 30
        while not fleet.members[0].holds:
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1.0)
        assert not waits.done()
        began = time.monotonic()
        fleet.close()
        assert time.monotonic() - began < 15
    assert isinstance(waits.result(timeout=1), Failure)
    assert fleet.diary.incidents == []  # nobody's fault


def test_a_device_that_cannot_load_what_is_built_for_it_is_told_at_once(farm, tmp_path):
    path = tmp_path / "text.so"
    path.write_bytes(b"no library " * 7)
    params = {"library": str(path), "symbol": "main", "args": []}
    began = time.monotonic()
    with Fleet(Wanted(farm.tracker, KEY)) as fleet:
        fleet.examination = Examination(params, (), EXPECTED)
        with pytest.raises(NoDeviceError, match=r"cannot load text\.so") as error:
            fleet.request("run_kernel", params)
    assert time.monotonic() - began < 30
    assert "--target" in str(error.value)


def test_several_devices_work_side_by_side(farm):
    farm.start("two")
    with Fleet(Wanted(farm.tracker, KEY)) as fleet:
        assert fleet.parallel == len(fleet.members) == 2
        asked = [fleet.submit("ask_device", {"what": "device.info"}) for _ in range(12)]
        names = {a.result().result["name"] for a in asked}
        assert names == {"one", "two"}
        assert fleet.diary.incidents == []
