"""The commands, as a person and as a program use them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from codesign.cli import app
from codesign.devices import wire
from codesign.devices.client import TrackerClient, unreachable
from codesign.devices.doctor import examine_device
from codesign.devices.serving import make_options, parse
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address
from codesign.errors import UserError

if TYPE_CHECKING:
    from conftest import Process, Starter

COMMANDS = ("tracker", "serve", "list", "queue", "ping", "drain", "resume", "forget")


@pytest.fixture(scope="module")
def device(start: Starter) -> Process:
    return start("board", "--name", "board-1", "--emulated")


def _run(*arguments: str, tracker: TrackerThread) -> Any:
    result = CliRunner().invoke(
        app, ["devices", *arguments, "--tracker", str(tracker.address), "--json"]
    )
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, ["devices", command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output


def test_devices_are_listed(device: Process, tracker: TrackerThread) -> None:
    (found,) = _run("list", tracker=tracker)["servers"]
    assert (found["key"], found["state"]) == ("board", "free")
    assert found["address"] == str(device.address)
    assert found["health"]["serial"] == "board-1"
    assert found["health"]["emulated"] is True
    assert _run("queue", tracker=tracker)["board"]["free"] == 1
    shown = CliRunner().invoke(app, ["devices", "list", "--tracker", str(tracker.address)])
    assert "board-1" in shown.output
    assert "emulated" in shown.output
    shown = CliRunner().invoke(app, ["devices", "queue", "--tracker", str(tracker.address)])
    assert "board" in shown.output


def test_ping_times_round_trips(device: Process, tracker: TrackerThread) -> None:
    told = _run("ping", "board", "--count", "5", tracker=tracker)
    assert told["serial"] == "board-1"
    times = told["round_trip_ms"]
    assert times["count"] == 5
    assert 0 < times["min"] <= times["median"] <= times["max"]


def test_ping_of_a_drained_device_ends_at_its_time_out(
    device: Process, tracker: TrackerThread
) -> None:
    assert _run("drain", str(device.address), tracker=tracker)["drained"] == 1
    assert _run("list", tracker=tracker)["servers"][0]["state"] == "draining"
    before = time.monotonic()
    with pytest.raises(UserError, match="no device of 'board' answered") as caught:
        _run("ping", "board", "--timeout", "4", tracker=tracker)
    assert time.monotonic() - before < 15
    assert "codesign doctor --device board" in caught.value.next
    assert _run("resume", "board", tracker=tracker)["resumed"] == 1
    assert _run("ping", "board", "--count", "1", tracker=tracker)["serial"] == "board-1"


def test_a_forgotten_device_that_lives_comes_back(device: Process, tracker: TrackerThread) -> None:
    assert _run("forget", "board", tracker=tracker)["forgotten"] == 1
    until = time.monotonic() + 15
    while not _run("list", tracker=tracker)["servers"]:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("command", ["drain", "resume", "forget", "ping"])
def test_an_unknown_device_is_a_users_error(
    device: Process, tracker: TrackerThread, command: str
) -> None:
    with pytest.raises(UserError) as caught:
        _run(command, "nobody", tracker=tracker)
    assert "board" in caught.value.allowed
    assert "--key nobody" in caught.value.next


@pytest.mark.parametrize("command", [["list"], ["queue"], ["ping", "x"], ["drain", "x"]])
def test_without_a_tracker_each_command_says_how_to_start_one(command: list[str]) -> None:
    result = CliRunner().invoke(app, ["devices", *command, "--tracker", "127.0.0.1:1"])
    assert isinstance(result.exception, UserError)
    assert "codesign devices tracker" in result.exception.next


def test_an_address_that_is_none_is_a_users_error() -> None:
    result = CliRunner().invoke(app, ["devices", "list", "--tracker", "host:port"])
    assert isinstance(result.exception, UserError)
    assert result.exception.got == "host:port"


def test_the_trackers_address_comes_from_the_environment(tracker: TrackerThread) -> None:
    environment = {"CODESIGN_TRACKER": str(tracker.address)}
    result = CliRunner().invoke(app, ["devices", "queue", "--json"], env=environment)
    assert result.exit_code == 0
    json.loads(result.stdout)


def test_a_device_is_served_by_the_command(start: Starter, tracker: TrackerThread) -> None:
    process = start("by-command", "--name", "mine", command="codesign devices serve")
    assert _run("ping", "by-command", "--count", "1", tracker=tracker)["serial"] == "mine"
    assert process.end() == 0


@pytest.fixture
def commands() -> Iterator[list[subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_tracker_command_serves_loopback_and_ends_cleanly(
    commands: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    commands.append(
        process := subprocess.Popen(
            [sys.executable, "-m", "codesign", "devices", "tracker", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = wire.parse_address(line.split(" on ")[1].split(",")[0])
    assert address.host == "127.0.0.1"
    with TrackerClient(address) as client:
        assert client.status()["servers"] == []
        process.send_signal(number)
        assert process.wait(10) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_the_tracker_command_warns_when_others_reach_it(
    commands: list[subprocess.Popen[str]],
) -> None:
    arguments = ["tracker", "--host", "0.0.0.0", "--port", "0"]
    commands.append(
        process := subprocess.Popen(
            [sys.executable, "-m", "codesign", "devices", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    assert process.stderr is not None
    assert "can run any code on the devices" in process.stderr.readline()


def test_a_key_that_is_nearly_right_is_asked_back(device: Process, tracker: TrackerThread) -> None:
    with pytest.raises(UserError) as caught:
        _run("ping", "bord", tracker=tracker)
    assert caught.value.next == "did you mean 'board'?"


def test_a_device_that_is_gone_is_no_unknown_one(start: Starter, tracker: TrackerThread) -> None:
    process = start("brief", "--name", "brief-1")
    assert process.end() == 0
    with pytest.raises(UserError, match="no device of this key can be used") as caught:
        _run("ping", "brief", tracker=tracker)
    assert "--key brief" in caught.value.next
    assert "brief" not in caught.value.allowed
    checks = examine_device("brief", tracker.address)
    assert checks[-1].status == "fail"
    for told in (caught.value.got, checks[-1].found):
        assert f"{process.address} is gone" in told


def test_a_second_tracker_is_told_of_the_first(tracker: TrackerThread) -> None:
    port = str(tracker.address.port)
    result = CliRunner().invoke(app, ["devices", "tracker", "--port", port])
    assert isinstance(result.exception, UserError)
    assert f"a tracker runs there already, pid {os.getpid()}" in result.exception.got
    assert "use that one" in result.exception.next


def test_a_machine_that_nobody_knows_is_no_tracker_that_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(UserError, match="no machine of this name") as caught:
        TrackerClient(Address("dekstop", 9190))
    assert "codesign devices tracker" not in caught.value.next


def test_a_tracker_of_another_machine_is_started_there() -> None:
    told = unreachable(Address("192.168.1.10", 9191), ConnectionRefusedError("refused"))
    assert told.next == "on 192.168.1.10: codesign devices tracker --host 0.0.0.0 --port 9191"


def test_a_port_that_is_taken_is_a_users_error(tracker: TrackerThread) -> None:
    port = str(tracker.address.port)
    for command in (["tracker"], ["serve", "--key", "k"]):
        result = CliRunner().invoke(app, ["devices", *command, "--port", port])
        assert isinstance(result.exception, UserError)
        assert "port" in result.exception.next


@pytest.mark.parametrize("key", ["", "a b", "a:b", "k" * 129])
def test_a_key_that_would_break_the_protocol_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="no key"):
        make_options(key, tracker=None)


def test_limits_are_checked() -> None:
    for option in ({"max_upload_mb": 0}, {"cache_mb": -1}, {"max_session": float("nan")}):
        with pytest.raises(UserError, match="out of range"):
            make_options("k", tracker=None, **option)
    with pytest.raises(UserError, match="no port"):
        make_options("k", tracker=None, port=70000)


def test_the_boards_own_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse(["--key", "pi", "--tracker", "host", "--max-upload-mb", "5", "--no-fork"])
    assert options.tracker == Address("host", wire.TRACKER_PORT)
    assert options.host == "127.0.0.1"
    assert options.max_upload == 5_000_000
    assert not options.fork
    with pytest.raises(SystemExit) as caught:
        parse(["--key", "a b"])
    assert caught.value.code == 2
    assert "spaces" in capsys.readouterr().err
