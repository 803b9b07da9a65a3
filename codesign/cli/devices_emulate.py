"""``codesign devices emulate``: ARM devices on this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from codesign.devices.emulator import ARCHITECTURE, KEY, PROCESSOR, make_root
from codesign.devices.wire import TRACKER_PORT
from codesign.errors import UserError

if TYPE_CHECKING:
    from codesign.devices.emulated import EmulatedDevice, Fleet


def emulate(
    architecture: Annotated[str, typer.Argument(help="What to emulate: arm64.")] = ARCHITECTURE,
    devices: Annotated[int, typer.Option("--devices", min=1, max=64, help="How many.")] = 1,
    key: Annotated[str, typer.Option("--key", help="Key under which clients ask for one.")] = KEY,
    tracker: Annotated[
        str | None,
        typer.Option(envvar="CODESIGN_TRACKER", help="HOST:PORT; default: one of their own."),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Of their own tracker; 0: any.")
    ] = TRACKER_PORT,
    processor: Annotated[
        str, typer.Option("--processor", help="QEMU's name of one, such as cortex-a76.")
    ] = PROCESSOR,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Keeps work folders and logs of the devices.")
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Make what they run from, and start none.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document when they are ready.")
    ] = False,
) -> None:
    """Run ARM devices on this machine: for function, never for time.

    The first call downloads Debian's arm64 Python (by apt) and TVM (by pip) into the user's cache, 140 MB.
    """
    from codesign.devices.emulated import emulated_devices

    if architecture not in (ARCHITECTURE, "aarch64"):
        raise UserError("this architecture is not emulated", got=architecture, allowed=ARCHITECTURE)
    root = make_root(say=_say)
    if prepare_only:
        made = {"root": str(root.folder), "python": root.python, "bytes": root.bytes}
        print(json.dumps(made, indent=2) if as_json else f"ready: {root.folder}")
        return
    with (
        _ended_like_ctrl_c(),
        emulated_devices(
            devices,
            key,
            tracker=tracker,
            tracker_port=port,
            folder=folder,
            processor=processor,
            root=root,
            say=_say,
        ) as fleet,
        contextlib.suppress(KeyboardInterrupt),  # the way to end, no interruption of work
    ):
        _show(fleet, as_json)
        _watch(fleet.devices)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(fleet: Fleet, as_json: bool) -> None:
    if as_json:
        print(json.dumps(fleet.to_json(), indent=2), flush=True)
        return
    for device in fleet.devices:
        print(f"{device.name}  {device.address}  log: {device.log}")
    print(f"tracker {fleet.tracker}, key {fleet.key}; emulated: their times say nothing of ARM")
    print("Ctrl-C ends them", flush=True)


def _watch(devices: tuple[EmulatedDevice, ...]) -> None:
    """Until the last of them has ended."""
    living = list(devices)
    while living:
        for device in list(living):
            if (code := device.process.poll()) is not None:
                _say(f"{device.name} ended with status {code}:\n{device.last_words()}")
                living.remove(device)
        time.sleep(0.5)


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM and a closed terminal end the devices as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
