"""A tracker and servers of devices, on this machine or emulated, for faults to be injected into."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from codesign.devices.client import TrackerClient
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address
from codesign.errors import UserError

KEY = "device"
_ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 60.0
_TURN_SECONDS, _TURNS = 0.01, 20


@dataclass
class Device:
    """A server of ours in a process of its own."""

    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """As if the power was cut: the server and all that it started are gone at once."""
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait(10)

    def slow_down(self, seconds: float, share: float) -> None:
        """Let it run for a share of the time only, in turns that are shorter than a block of calls."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sessions = self.family()[1:]  # the server goes on telling that it lives
            for _ in range(_TURNS):
                _signal(sessions, signal.SIGSTOP)
                time.sleep(_TURN_SECONDS * (1 - share))
                _signal(sessions, signal.SIGCONT)
                time.sleep(_TURN_SECONDS * share)

    def family(self) -> list[psutil.Process]:
        """The server and its descendants."""
        try:
            head = psutil.Process(self.process.pid)
            return [head, *head.children(recursive=True)]
        except psutil.Error:
            return []


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


class Farm:
    """A tracker with devices; all end with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="codesign-farm-")
        self._tracker: TrackerThread | None = TrackerThread()
        self._tracker.__enter__()
        self.tracker: Address = self._tracker.address
        self.devices: dict[str, Device] = {}

    def __enter__(self) -> Farm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for device in self.devices.values():
            device.process.terminate()
        for device in self.devices.values():
            try:
                device.process.wait(10)
            except subprocess.TimeoutExpired:
                device.kill()
        if self._tracker is not None:
            self._tracker.__exit__(None, None, None)
        self._folder.cleanup()

    def start(
        self,
        name: str,
        key: str = KEY,
        *options: str,
        work: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Device:
        """Start a server, or start it again, and wait until the tracker knows it."""
        folder = work or Path(self._folder.name) / name
        command = [sys.executable, "-m", "codesign.devices.server", "--key", key, "--port", "0"]
        command += ["--tracker", str(self.tracker), "--work", str(folder), "--name", name]
        path = os.pathsep.join(filter(None, [(environment or {}).get("PYTHONPATH"), str(_ROOT)]))
        log = open(Path(self._folder.name) / f"{name}.log", "ab")  # noqa: SIM115
        process = subprocess.Popen(
            [*command, *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {}), "PYTHONPATH": path},
        )
        log.close()
        self.devices[name] = device = Device(name, process)
        self.wait_for(name)
        return device

    def wait_for(self, name: str) -> None:
        """Until the tracker knows a device by this name, and has handed it out or can."""
        until = time.monotonic() + _READY_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(UserError), TrackerClient(self.tracker) as client:
                for server in client.status()["servers"]:
                    health = server.get("health") or {}
                    if health.get("serial") == name and server["state"] in ("free", "busy"):
                        return
            time.sleep(0.1)
        raise RuntimeError(f"{name} did not come up: {self.log(name)}")

    def log(self, name: str) -> str:
        """What a server said."""
        return (Path(self._folder.name) / f"{name}.log").read_text(errors="replace")[-2000:]

    def restart_tracker(self, away: float) -> None:
        """The tracker is gone for some seconds, and comes back at the same address, knowing nothing."""
        assert self._tracker is not None
        self._tracker.__exit__(None, None, None)
        time.sleep(away)
        self._tracker = TrackerThread(port=self.tracker.port)
        self._tracker.__enter__()
