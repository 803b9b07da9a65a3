"""``codesign doctor``: what is wrong with this machine or with a device, and what mends it."""

from __future__ import annotations

from typing import Annotated

import typer

from codesign.cli.console import emit, out
from codesign.cli.options import DEFAULT_TRACKER, JsonFlag, TrackerAt

EXAMPLES = "Examples: codesign doctor | codesign doctor --device pi5 --tracker 192.168.1.10:9190"


def command(
    device: Annotated[
        str | None, typer.Option("--device", help="Check a device of this key, not this machine.")
    ] = None,
    tracker: TrackerAt = DEFAULT_TRACKER,
    machine: Annotated[
        str | None, typer.Option(help="The device's `uname -m`, if its server does not tell.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check versions, linker, processor and a real kernel; say the command that mends what is wrong."""
    from codesign.doctor import examine, healthy

    if device is None:
        checks = examine()
    else:
        from codesign.devices.doctor import examine_device
        from codesign.devices.serving import tracker_address

        checks = examine_device(device, tracker_address(tracker), machine=machine)
    if as_json:
        emit([check.to_json() for check in checks])
    else:
        from codesign.listing import doctor_table

        out.print(doctor_table(checks))
    if not healthy(checks):
        raise typer.Exit(1)
