"""Options that several commands have, and what those mean that are more than a value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from codesign.cli.console import err
from codesign.devices.wire import TRACKER_PORT
from codesign.errors import UserError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]
TargetName = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        help="A name from `codesign targets`, with +feature if wanted, or a TOML file; "
        "default: this machine.",
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads of the model.")]
DeviceKey = Annotated[
    str | None,
    typer.Option("--device", help="Measure on the devices of this key, over RPC; see `devices`."),
]
TrackerAddress = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        envvar="CODESIGN_TRACKER",
        help="HOST:PORT of the tracker that knows them; default: 127.0.0.1:9190.",
    ),
]
Cpus = Annotated[
    str, typer.Option("--cpus", help="Processors of the device to run on, such as 4-7.")
]
Emulated = Annotated[
    int,
    typer.Option(
        "--emulated",
        min=0,
        max=16,
        help="Start so many emulated ARM devices and measure on them: for function, not for time.",
    ),
]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", help="Bind a dynamic dimension, as in --dim seq=128. May be repeated."),
]
DEFAULT_TRACKER = f"127.0.0.1:{TRACKER_PORT}"
TrackerAt = Annotated[
    str, typer.Option("--tracker", envvar="CODESIGN_TRACKER", help="HOST:PORT of the tracker.")
]


@contextmanager
def measuring_devices(
    key: str | None, tracker: str | None, emulated: int
) -> Iterator[tuple[str | None, str | None]]:
    """Key and tracker of the devices that measure; emulated ones are started, and end with the command."""
    if not emulated:
        yield key, tracker
        return
    from codesign.devices.emulated import emulated_devices
    from codesign.devices.emulator import KEY

    with emulated_devices(emulated, key or KEY, say=lambda t: err.print(t, markup=False)) as fleet:
        yield fleet.key, fleet.tracker


def parse_dims(pairs: list[str] | None) -> dict[str, int]:
    """``["seq=128"]`` as ``{"seq": 128}``; anything else is the user's error."""
    dims: dict[str, int] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not (name and equals and value.isdigit() and int(value) > 0):
            raise UserError(
                "a dimension could not be read",
                got=f"--dim {pair}",
                allowed="NAME=SIZE with a positive whole number",
                next="codesign compile model.onnx --dim batch=1 --dim seq=128",
            )
        dims[name] = int(value)
    return dims
