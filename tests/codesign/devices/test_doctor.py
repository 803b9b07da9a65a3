"""The doctor of devices: of real servers here, and of answers that stand for sick ones."""

from __future__ import annotations

import json
import platform
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from codesign.cli import app
from codesign.devices import doctor, wire
from codesign.devices.client import TrackerClient
from codesign.devices.doctor import STOCK, examine_device
from codesign.devices.probing import Unanswered, probe
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address
from codesign.doctor import Check, healthy
from codesign.errors import UserError
from codesign.versions import TVM, TVM_FFI

if TYPE_CHECKING:
    from conftest import Process, Starter


@pytest.fixture(scope="module")
def device(start: Starter) -> Process:
    return start("well", "--name", "well-1")


def _by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def _wait_until_free(tracker: Address, key: str) -> None:
    until = time.monotonic() + 20
    with TrackerClient(tracker) as client:
        while not client.status()["queues"].get(key, {"free": 0})["free"]:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_device_of_this_machine_is_well(device: Process, tracker: TrackerThread) -> None:
    checks = _by_name(examine_device("well", tracker.address))
    assert healthy(list(checks.values()))
    for name in ("tracker", "key", "free", "session", "identity", "versions", "kernel"):
        assert checks[name].status == "ok", checks[name]
    assert "well-1" in checks["identity"].found
    assert {"opencl", "round trip", "governor", "temperature", "battery", "memory", "disk"} <= set(
        checks
    )
    assert all(check.mend for check in checks.values() if check.status != "ok")


def test_the_command_prints_the_checks(device: Process, tracker: TrackerThread) -> None:
    arguments = ["doctor", "--device", "well", "--tracker", str(tracker.address), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "kernel" in [check["name"] for check in json.loads(result.stdout)]
    result = CliRunner().invoke(app, ["doctor", "--device", "x", "--tracker", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "codesign devices tracker" in " ".join(result.output.split())


def test_no_tracker_no_key_and_nothing_free(device: Process, tracker: TrackerThread) -> None:
    (only,) = examine_device("well", Address("127.0.0.1", 1))
    assert (only.name, only.status) == ("tracker", "fail")
    *_, key = examine_device("nobody", tracker.address)
    assert (key.name, key.status) == ("key", "fail")
    assert "well" in key.found
    with TrackerClient(tracker.address) as client:
        client.drain("well", None)
        try:
            *_, free = examine_device("well", tracker.address)
        finally:
            client.resume("well", None)
    assert (free.name, free.status) == ("free", "fail")
    assert free.mend == "codesign devices resume well"


def test_a_device_that_is_gone_is_told_as_that() -> None:
    with TrackerThread() as lonely:
        with socket.create_connection((lonely.address.host, lonely.address.port), 5) as server:
            until = time.monotonic() + 10
            server.sendall(wire.magic(wire.TRACKER_MAGIC))
            wire.read_exactly(server, 4, until)
            server.sendall(wire.frame([wire.Code.PUT, "phone", [5000, "phone:1"], None]))
            wire.read_frame(server, until)
        with TrackerClient(lonely.address) as client:
            while client.status()["servers"][0]["state"] != "gone":
                assert time.monotonic() < until
        *_, key = examine_device("phone", lonely.address)
        result = CliRunner().invoke(
            app, ["devices", "ping", "phone", "--tracker", str(lonely.address)]
        )
    assert (key.name, key.status) == ("key", "fail")
    assert key.found.startswith("127.0.0.1:5000 is gone, last seen")
    assert key.mend.startswith("start it again")
    assert isinstance(result.exception, UserError)
    assert "127.0.0.1:5000 is gone" in str(result.exception)


def test_a_time_out_is_sent_in_whole_seconds(tracker: TrackerThread) -> None:
    heard: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            until = time.monotonic() + 30
            head = wire.read_exactly(connection, 8, until)
            heard.append(wire.read_exactly(connection, head[4], until).decode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with (
        listening,
        socket.create_connection((tracker.address.host, tracker.address.port), 5) as server,
    ):
        until = time.monotonic() + 10
        server.sendall(wire.magic(wire.TRACKER_MAGIC))
        wire.read_exactly(server, 4, until)
        offer = [listening.getsockname()[1], "strict:1"]
        server.sendall(wire.frame([wire.Code.PUT, "strict", offer, None]))
        wire.read_frame(server, until)
        answer = probe(tracker.address, "strict", seconds=8.5)
        thread.join(10)
    assert isinstance(answer, Unanswered)
    assert heard == ["client:strict:1 -timeout=9"]  # TVM's C++ server dies of "9.0"


def test_a_held_device_is_told_with_its_holder(device: Process, tracker: TrackerThread) -> None:
    from tvm import rpc

    asking = rpc.connect_tracker(tracker.address.host, tracker.address.port)
    session = asking.request("well", session_timeout=60)
    *_, free = examine_device("well", tracker.address)
    assert (free.name, free.status) == ("free", "fail")
    assert "busy 127.0.0.1, for " in free.found
    assert "of 60 s" in free.found
    del session
    asking.close()


def test_tvms_own_server_is_examined_as_far_as_it_tells(tracker: TrackerThread) -> None:
    from tvm import rpc

    at = (tracker.address.host, tracker.address.port)
    stock = rpc.Server("127.0.0.1", 9500, 9600, tracker_addr=at, key="plain", silent=True)
    try:
        _wait_until_free(tracker.address, "plain")
        checks = _by_name(examine_device("plain", tracker.address, machine=platform.machine()))
    finally:
        stock.terminate()
    assert checks["kernel"].status == "ok"
    assert checks["round trip"].status == "ok"
    for name in ("identity", "versions", "governor", "temperature", "battery", "memory", "disk"):
        assert checks[name].found == STOCK
        assert checks[name].status == "warn"


GOOD: dict[str, Any] = {
    "connect_s": 0.1,
    "round_trips_s": [0.001],
    "opencl": True,
    "kernel": {"status": "ok", "error": 1e-7, "text": ""},
    "info": {
        "serial": "s", "model": "Pixel", "machine": "aarch64", "cores": 8, "emulated": False,
        "versions": {"tvm": TVM, "tvm_ffi": TVM_FFI, "python": "3.11"},
    },
    "state": {
        "temperatures_c": {"cpu": 40.0}, "governors": {"0": "performance"}, "throttled": False,
        "battery": {"percent": 80, "status": "Full", "temperature_c": 30.0},
        "memory_free_bytes": 4e9, "disk_free_bytes": 4e9,
    },
}  # fmt: skip


def _examined(monkeypatch: pytest.MonkeyPatch, answer: Any) -> dict[str, Check]:
    """Checks of a device whose tracker is well and whose session told this."""
    server = {"key": "k", "address": "h:1", "state": "free", "health": None, "holder": None}
    status = {"stock": False, "servers": [server], "queues": {"k": {"free": 1, "pending": 0}}}

    class Client:
        def __init__(self, address: Address) -> None:
            pass

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *raised: object) -> None:
            pass

        def status(self) -> dict[str, Any]:
            return status

    monkeypatch.setattr(doctor, "TrackerClient", Client)
    monkeypatch.setattr(doctor, "probe", lambda *args, **options: answer)
    return _by_name(examine_device("k", Address("h", 1)))


def test_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = _examined(monkeypatch, GOOD)
    assert {check.status for check in checks.values()} == {"ok"}


@pytest.mark.parametrize(
    ("place", "value", "name", "status", "mend"),
    [
        (("info", "versions", "tvm"), "0.20", "versions", "fail", "pip install apache-tvm=="),
        (("info", "emulated"), True, "identity", "warn", "nothing of a device"),
        (("info", "serial"), "unknown", "identity", "warn", "--name"),
        (("kernel",), {"status": "wrong", "error": 0.5, "text": ""}, "kernel", "fail", "versions"),
        (("kernel",), {"status": "not built", "text": "x"}, "kernel", "fail", "lld"),
        (("kernel",), {"status": "not tried", "text": "x"}, "kernel", "warn", "--machine"),
        (("opencl",), False, "opencl", "warn", "codesign devices opencl"),
        (("info", "opencl_type"), "cpu", "opencl", "warn", "nothing of a GPU"),
        (("round_trips_s",), [0.05], "round trip", "warn", "cable"),
        (("state", "governors"), {"0": "schedutil"}, "governor", "warn", "scaling_governor"),
        (("state", "throttled"), True, "governor", "warn", "cool"),
        (("state", "temperatures_c"), {"cpu": 85.0}, "temperature", "warn", "cool"),
        (("state", "battery", "percent"), 7, "battery", "warn", "charge"),
        (("state", "battery", "temperature_c"), 45.0, "battery", "warn", "cool"),
        (("state", "memory_free_bytes"), 1e8, "memory", "warn", "programs"),
        (("state", "disk_free_bytes"), 1e8, "disk", "warn", "--work"),
    ],
)
def test_each_illness_is_named_with_what_mends_it(
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[str, ...],
    value: Any,
    name: str,
    status: str,
    mend: str,
) -> None:
    answer = json.loads(json.dumps(GOOD))
    holder = answer
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    checks = _examined(monkeypatch, answer)
    assert checks[name].status == status
    assert mend in checks[name].mend
    assert [n for n, check in checks.items() if check.status != "ok"] == [name]


def test_a_session_that_hangs_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = _examined(monkeypatch, Unanswered("timeout", "no answer in 90 s"))
    assert checks["session"].status == "fail"
    assert "restart the server" in checks["session"].mend
