"""Trackers, servers on loopback and emulated devices; whatever hangs in a test is ended with its traceback."""

from __future__ import annotations

import faulthandler
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from codesign.devices.client import TrackerClient
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address, parse_address

if TYPE_CHECKING:
    from codesign.devices.emulated import Fleet
    from codesign.devices.emulator import EmulatedRoot

ROOT = Path(__file__).resolve().parents[3]
HANG_SECONDS = 120


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """TVM's client may wait for ever, out of reach of any time-out in Python."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


class Process:
    """A command of ours that prints its address first and then serves."""

    def __init__(self, arguments: list[str], path: Path | None = None, **options: Any) -> None:
        places = [str(place) for place in (path, ROOT) if place]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            **options,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        found = self.wait_for(r" on (\S+:\d+), ")
        self.address = parse_address(found[1])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def wait_for(self, pattern: str, seconds: float = 40.0, count: int = 1) -> re.Match[str]:
        """Until the log has as many lines with a pattern; the last of them."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = [m for line in list(self.lines) if (m := re.search(pattern, line))]
            if len(found) >= count:
                return found[-1]
            if self.process.poll() is not None:
                self._reader.join(2)
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} in:\n{''.join(self.lines)}")

    def end(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()
            self._reader.join(5)
            assert self.process.stdout is not None
            self.process.stdout.close()


Starter = Callable[..., Process]


@pytest.fixture(scope="module")
def tracker() -> Iterator[TrackerThread]:
    with TrackerThread() as running:
        yield running


@pytest.fixture(scope="module")
def start(tracker: TrackerThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts a server at the tracker, ready when it returns; ended with the module."""
    running: list[Process] = []

    def start(
        key: str,
        *more: str,
        at: Address | None = None,
        until: str = r"\bready$",
        command: str = "codesign.devices.server",
        **options: Any,
    ) -> Process:
        work = [] if "--work" in more else ["--work", str(tmp_path_factory.mktemp("work"))]
        where = ["--tracker", str(at or tracker.address)] if at is None or at.port else []
        arguments = [*command.split(), "--key", key, "--port", "0", *where, *work, *more]
        server = Process(arguments, **options)
        running.append(server)
        if "--no-fork" not in more:
            server.wait_for(until)
        return server

    yield start
    for server in running:
        server.end()


@pytest.fixture
def status(tracker: TrackerThread) -> Callable[[], dict[str, Any]]:
    """Asks the tracker."""

    def ask() -> dict[str, Any]:
        with TrackerClient(tracker.address) as client:
            return client.status()

    return ask


@pytest.fixture(scope="session")
def emulated_root() -> EmulatedRoot:
    """The folder of the emulated device; skips where it can neither be found nor be made."""
    from codesign.devices.debian import UnreachableError
    from codesign.devices.emulator import lacking, make_root

    if (absent := lacking()) is not None:
        pytest.skip(absent)
    try:
        return make_root()
    except UnreachableError as error:
        pytest.skip(f"no network: {error}")


@pytest.fixture(scope="session")
def emulated_fleet(emulated_root: EmulatedRoot) -> Iterator[Fleet]:
    """Two emulated devices under one key, with a tracker of their own, for the whole run of the tests.

    A session takes one of them for itself: let go of all that belongs to it.
    """
    from codesign.devices.emulated import emulated_devices

    with emulated_devices(2, root=emulated_root) as fleet:
        yield fleet
