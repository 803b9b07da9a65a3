"""Real phones, boards and servers: what the TOML files beside this module describe.

`targets.device_file` says what a file holds. A value without a source that could be checked is left out.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from targets.device_file import Library, read_library
from targets.device_targets import device_targets
from targets.target import Target


@cache
def library() -> Library:
    """Every device, chip and GPU of the catalog; a mistake in a file is an error of ours, found by the tests."""
    files = sorted(
        (f for f in resources.files(__name__).iterdir() if f.name.endswith(".toml")),
        key=lambda f: f.name,
    )
    return read_library({f.name: f.read_text(encoding="utf-8") for f in files})


@cache
def catalog_targets() -> dict[str, Target]:
    """Every target that the devices of the catalog give, by its name."""
    return {
        name: target
        for device in library().devices.values()
        for name, target in device_targets(device).items()
    }
