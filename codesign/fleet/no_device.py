"""Why a run stops for want of a device, each with what mends it."""

from __future__ import annotations

from codesign.devices.wire import Address
from codesign.errors import UserError
from codesign.versions import INSTALL, TVM, TVM_FFI


class NoDeviceError(UserError):
    """No device of the key could be had for too long. What was measured is in the records."""


def other_tvm(key: str, got: str) -> NoDeviceError:
    """The devices of a key have another TVM than this machine."""
    return NoDeviceError(
        f"the devices of '{key}' have another TVM", got=got,
        allowed=f"apache-tvm {TVM} and apache-tvm-ffi {TVM_FFI} on both sides",
        next=f"on the device: {INSTALL}",
    )  # fmt: skip


def few_processors(key: str, got: str) -> NoDeviceError:
    """The devices of a key run fewer threads than were asked for."""
    return NoDeviceError(
        f"the devices of '{key}' have fewer processors than that",
        got=got,
        allowed="as many threads as the device has processors, at most",
        next="a smaller --threads",
    )


def unloadable(key: str, tracker: Address, got: str) -> NoDeviceError:
    """A device never ran anything that was built for it, and does not load the reference kernel."""
    return NoDeviceError(
        f"a device of '{key}' cannot load what was built for it", got=got,
        allowed="a target of the device's own processor and system: android-arm64 and phones for Android, "
        "linux-arm64 and boards for Linux",
        next=f"name another --target, or see what runs there: {_doctor(key, tracker)} --machine aarch64",
    )  # fmt: skip


def none_to_be_had(
    key: str, tracker: Address, how_long: str, why: str, first: str = ""
) -> NoDeviceError:
    """All are away, resting or unknown; ``first`` is what mends it, if that is known."""
    return NoDeviceError(
        f"no device of '{key}' could be had {how_long}".rstrip(),
        got=why,
        allowed=f"a device registered as '{key}' at {tracker}",
        next=f"{first or _doctor(key, tracker)}; then run the same command again: what was measured is kept",
    )


def _doctor(key: str, tracker: Address) -> str:
    return f"codesign doctor --device {key} --tracker {tracker}"
