"""Starting emulated devices: each a server of its own, as a phone or board runs it, known to one tracker.

Times that they report say nothing of ARM; the servers label themselves, and all that comes of them.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.devices import wire
from codesign.devices.client import TrackerClient
from codesign.devices.debian import dying_with_us
from codesign.devices.emulator import KEY, PROCESSOR, EmulatedRoot, make_root
from codesign.devices.serving import tracker_address
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address
from codesign.errors import UserError
from targets.errors import CodesignError

_START_SECONDS = 180.0
_END_SECONDS = 10.0
_READY = ("free", "busy", None)  # TVM's tracker knows no states


@dataclass(frozen=True)
class EmulatedDevice:
    """One running device.

    Attributes:
        name: what its server calls itself.
        address: where its server listens.
        folder: its work folder; ``server.log`` beside it has what it says.
        process: the emulator that runs the server.
    """

    name: str
    address: Address
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def last_words(self, lines: int = 20) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


@dataclass(frozen=True)
class Fleet:
    """Emulated devices that are ready.

    Attributes:
        tracker: ``HOST:PORT`` of the tracker that hands them out.
        key: under which it does.
        devices: in the order of their names.
        root: the folder that they run from.
    """

    tracker: str
    key: str
    devices: tuple[EmulatedDevice, ...]
    root: EmulatedRoot

    def to_json(self) -> dict[str, Any]:
        return {
            "tracker": self.tracker,
            "key": self.key,
            "root": str(self.root.folder),
            "devices": [
                {"name": d.name, "address": str(d.address), "pid": d.process.pid, "emulated": True}
                for d in self.devices
            ],
        }


@contextlib.contextmanager
def emulated_devices(
    count: int = 1,
    key: str = KEY,
    *,
    tracker: str | None = None,
    tracker_port: int = 0,
    host: str = "127.0.0.1",
    folder: Path | None = None,
    processor: str = PROCESSOR,
    options: Sequence[str] = (),
    root: EmulatedRoot | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Fleet]:
    """Devices that run until the context ends, or the thread that entered it, whatever ends it.

    Args:
        count: how many.
        key: under which the tracker hands them out.
        tracker: ``HOST:PORT`` of one that runs; None: one of their own, on loopback.
        tracker_port: port of their own tracker; 0 takes any free one.
        host: address that the servers listen on; another than loopback lets others in.
        folder: gets a work folder and a log of each; None: a temporary one.
        processor: QEMU's name of what is emulated.
        options: further ones of the server.
        root: the folder that they run from; None: the default one, made if need be.
        say: told what is going on, line by line.

    Raises:
        UserError: they cannot be emulated here (see `make_root`), or the tracker does not answer.
        CodesignError: a server ended, or was not ready in time.
    """
    if count < 1:
        raise UserError("there is no such number of devices", got=str(count), allowed="1 or more")
    root = root or make_root(say=say)
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(_temporary_folder()))
        folder.mkdir(parents=True, exist_ok=True)
        if tracker is None:
            address = stack.enter_context(_own_tracker(tracker_port)).address
        else:
            address = tracker_address(tracker)
        ready_devices(address)  # one that is not there is told at once
        devices: list[EmulatedDevice] = []
        stack.callback(_end, devices)
        start = time.monotonic()
        for number in range(1, count + 1):
            name, port = f"emulated-{number}", _free_port(host)
            words = ["-m", "codesign.devices.server", "--key", key, "--tracker", str(address)]
            words += ["--host", host, "--port", str(port), "--name", name, "--emulated"]
            words += ["--work", str(folder / name), *options]
            place = Address(host, port)
            command = root.command(words, processor=processor)
            devices.append(_start(command, name, place, folder / name))
        _wait(devices, address)
        say(f"{count} emulated and ready in {time.monotonic() - start:.1f} s")
        yield Fleet(str(address), key, tuple(devices), root)


def ready_devices(tracker: Address) -> set[int]:
    """Ports of the servers that a tracker can hand out now or has handed out.

    Raises:
        UserError: there is no tracker.
    """
    with TrackerClient(tracker) as client:
        servers = client.status()["servers"]
    ready = [s["address"] for s in servers if s["state"] in _READY]
    return {wire.parse_address(address).port for address in ready}


def _start(command: list[str], name: str, address: Address, folder: Path) -> EmulatedDevice:
    """Start a server that ends when this thread does: by a signal, so that it can tidy up."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_us(command, "TERM"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for this process, which then ends them in order
        )
    return EmulatedDevice(name, address, folder, process)


def _wait(devices: Sequence[EmulatedDevice], tracker: Address) -> None:
    """Until all are ready; raises CodesignError if one ends or takes too long."""
    until = time.monotonic() + _START_SECONDS
    while True:
        for device in devices:
            if (code := device.process.poll()) is not None:
                what = f"the server of {device.name} ended with status {code}"
                raise CodesignError(what, got=device.last_words())
        ready = ready_devices(tracker)
        late = [d for d in devices if d.address.port not in ready]
        if not late:
            return
        if time.monotonic() > until:
            names = ", ".join(d.name for d in late)
            what = f"{names} not ready within {_START_SECONDS:.0f} s"
            raise CodesignError(what, got=late[0].last_words())
        time.sleep(0.1)


def _end(devices: Sequence[EmulatedDevice]) -> None:
    """Ask all to end, then make them."""
    for device in devices:
        with contextlib.suppress(ProcessLookupError):
            device.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + _END_SECONDS
    for device in devices:
        try:
            device.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            device.process.kill()
            device.process.wait()


def _own_tracker(port: int) -> TrackerThread:
    try:
        return TrackerThread(port=port)
    except OSError as error:
        raise UserError(
            "the tracker of the emulated devices cannot listen",
            got=f"127.0.0.1:{port}: {error.strerror or error}",
            next=f"--tracker 127.0.0.1:{port} if a tracker runs there, else --port 0",
        ) from error


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="codesign-emulated-", ignore_cleanup_errors=True)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
