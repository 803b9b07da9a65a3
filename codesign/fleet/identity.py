"""Which device answers to a key: its name in records, and what may be compiled for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codesign.errors import UserError
from codesign.fleet.fleet import Fleet, NoDeviceError
from codesign.worker import Failure
from targets.cpu import parse_cpuinfo
from targets.target import HOST_NAMES, KNOWN, Target, find

_SECONDS = 60.0
_ARM = ("aarch64-i8mm", "aarch64-dotprod", "aarch64")


@dataclass(frozen=True)
class Identity:
    """What the devices of a key are.

    Attributes:
        key: under which they are registered.
        told: of one of them, by our server; empty from a stock one.
        facts: of its processor, by our server; empty from a stock one.
    """

    key: str
    told: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def emulated(self) -> bool:
        return bool(self.told.get("emulated"))

    @property
    def features(self) -> frozenset[str]:
        """Of its processor, in LLVM's spelling."""
        return parse_cpuinfo(str(self.facts.get("cpuinfo", "")))[2]

    @property
    def name(self) -> str:
        """Identity of the devices of this key for records; they are taken to be alike.

        Which of them measured is in the measurement itself.
        """
        if not self.facts:
            return f"{self.key} over RPC (stock TVM server)"
        model = str(self.facts.get("model") or self.facts.get("machine") or "unknown")
        said = f"{self.key} over RPC: {model}, {self.told.get('cores', '?')} processors"
        return f"{said}, emulated" if self.emulated else said

    def target(self, name: str) -> Target:
        """The target called ``name``, or with ``host`` the best one that the device can run.

        Raises:
            UserError: the device does not say what it is, or lacks what the target needs.
        """
        if name in HOST_NAMES:
            return self._best()
        target = find(name)
        machine = str(self.facts.get("machine", ""))
        missing = target.features - self.features if self.facts else frozenset()
        if (machine and machine != target.architecture) or (self.features and missing):
            lacks = f" without {', '.join(sorted(missing))}" if missing else ""
            raise UserError(
                f"the device cannot run code for {name}",
                got=f"{self.name}: {machine}{lacks}",
                allowed=f"{target.architecture} with {' '.join(sorted(target.features))}",
                next=f"leave --target out: the best for the device is {self._best().name}",
            )
        return target

    def _best(self) -> Target:
        machine = self.facts.get("machine")
        for name in KNOWN if machine == "x86_64" else _ARM:
            target = KNOWN[name]
            if target.architecture == machine and target.features <= self.features:
                return target
        raise UserError(
            "it is not known what to compile for this device",
            got=self.name,
            allowed="a device with our server, which tells what it is; or a target by its name",
            next="name it: --target android-arm64 (codesign targets lists all)",
        )


def identify(fleet: Fleet) -> Identity:
    """Ask one of the devices what it is.

    Raises:
        NoDeviceError: none answers.
    """
    asked = fleet.request("ask_device", {"what": "device.facts"}, deadline=_SECONDS)
    told = fleet.request("ask_device", {"what": "device.info"}, deadline=_SECONDS)
    for answer in (asked, told):
        if isinstance(answer, Failure):
            raise NoDeviceError(
                f"a device of '{fleet.wanted.key}' does not say what it is", got=str(answer),
                allowed="an RPC server of TVM, or ours",
                next=f"codesign doctor --device {fleet.wanted.key} --tracker {fleet.wanted.tracker}",
            )  # fmt: skip
    assert not isinstance(asked, Failure)
    assert not isinstance(told, Failure)
    return Identity(fleet.wanted.key, told.result or {}, asked.result or {})
