"""Emulated ARM devices for whoever needs one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from codesign.devices.emulated import Fleet
    from codesign.devices.emulator import EmulatedRoot


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
