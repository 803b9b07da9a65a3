"""Which device answers to a key: its name in records, and what may be compiled for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from codesign.conditions import BOARD, OPEN, PHONE, Gate, affinity, choose, clusters
from codesign.devices.opencl_runtime import BUILD
from codesign.devices.stand_in import is_stand_in
from codesign.errors import UserError
from codesign.fleet.fleet import Fleet
from codesign.fleet.member import Wanted
from codesign.fleet.no_device import NoDeviceError
from codesign.where import GPU, Where
from codesign.worker import Failure
from targets.cpu import parse_cpuinfo
from targets.description import DeviceDescription, slug
from targets.detect import DeviceFacts, describe
from targets.device_targets import device_targets
from targets.errors import TargetError
from targets.target import HOST_NAMES, KNOWN, Target, best_for, find

_SECONDS = 60.0


@dataclass(frozen=True)
class Identity:
    """What the devices of a key are.

    Attributes:
        key: under which they are registered.
        told: of one of them, by our server; empty from a stock one.
        facts: of its processor, by our server; empty from a stock one.
        kind: code generator of what it is asked to run.
    """

    key: str
    told: Mapping[str, Any]
    facts: Mapping[str, Any]
    kind: str = "llvm"

    @property
    def emulated(self) -> bool:
        """Whether its times say nothing of the device that code is made for: an emulator's, or a processor's
        where it should be a GPU."""
        return bool(self.told.get("emulated")) or is_stand_in(self.told, self.kind)

    @cached_property
    def description(self) -> DeviceDescription:
        """What the device is, from what it tells.

        Raises:
            TargetError: it is no 64-bit ARM, or tells nothing.
        """
        found = replace(describe(DeviceFacts.from_json(self.facts)), name=self._slug)
        if not self.emulated:
            return found
        chip = replace(found.chip, name=f"{self._slug}-chip", maker="QEMU")
        return replace(found, maker="QEMU", model="emulated processor, no device", chip=chip)

    @property
    def features(self) -> frozenset[str]:
        """Of its processor, in LLVM's spelling."""
        if self.facts.get("machine") == "x86_64":
            return parse_cpuinfo(str(self.facts.get("cpuinfo", "")))[2]
        return frozenset(self.description.chip.features)

    @property
    def _slug(self) -> str:
        return slug(self.key)

    @property
    def name(self) -> str:
        """Identity of the devices of this key for records; they are taken to be alike.

        Which of them measured is in the measurement itself.
        """
        if not self.facts:
            return f"{self.key} over RPC (stock TVM server)"
        model = str(self.facts.get("model") or self.facts.get("machine") or "unknown")
        said = f"{self.key} over RPC: {model}, {self.told.get('cores', '?')} processors"
        if is_stand_in(self.told, self.kind):
            said += ", OpenCL on its processor"
        return f"{said}, emulated" if self.emulated else said

    @property
    def gate(self) -> Gate:
        """Limits that such a device has to keep before it measures; none for an emulator or a server."""
        if self.emulated or self.facts.get("machine") != "aarch64":
            return OPEN
        return PHONE if self.facts.get("system") == "android" else BOARD

    def cpus(self, which: str) -> str:
        """The processors that ``big``, ``little``, ``all`` or numbers mean on this device.

        Raises:
            UserError: the device does not tell its kinds of processors, or it is none of these.
        """
        if not self.facts:
            raise UserError(
                "TVM's own server does not let a client choose processors", got=which,
                allowed="all, or our server, which does",
                next="start it on the processors wanted, and leave the choice away: "
                "TVM_BIND_THREADS=0 taskset f0 ./tvm_rpc server ... (f0: processors 4 to 7)",
            )  # fmt: skip
        told = {str(c["cpu"]): c["max_khz"] for c in self.facts.get("cpus", ())}
        speeds = {cpu: khz for cpu, khz in told.items() if khz}
        return affinity.format(choose(which, clusters(speeds), map(int, told) if told else None))

    def target(self, name: str) -> Target:
        """The target called ``name``; ``host`` is the best one that the device can run, ``gpu`` its GPU.

        Raises:
            UserError: the device does not say what it is, or lacks what the target needs.
        """
        if name in HOST_NAMES:
            return self._best()
        if name == GPU:
            return self._own_gpu()
        target = find(name)
        if not self.facts:
            return target
        if target.gpu is not None:
            self._require_opencl(name)
        if lacks := self._lacks(target.architecture, target.features, target.triple):
            raise UserError(
                f"the device cannot run code for {name}",
                got=f"{self.name}: {lacks}",
                allowed=_needs(target.architecture, target.features, target.triple),
                next="leave --target out to compile for what the device is",
            )
        return target

    def target_of(self, made_for: Mapping[str, Any]) -> Target:
        """The target to measure a bundle as, by the target in its manifest.

        It is what the device is; where that is not told, or a GPU is meant, what the bundle was made for.

        Raises:
            UserError: the device cannot run it, or it is for a GPU that is not known.
        """
        self.check_runs(made_for)
        gpu = made_for["kind"] == "opencl"
        if self.facts and gpu:
            self._require_opencl(made_for["name"])
        elif self.facts:
            return self._best()
        try:
            found = find(made_for["name"])
        except TargetError:  # of a file that need not be here, or of what a device told of itself
            found = None
        if found is not None and (found.gpu is not None) == gpu:
            return found
        if gpu and self.facts:
            return self._own_gpu()
        features, machine = frozenset(made_for["features"]), made_for["machine"]
        fits = [t for t in KNOWN.values() if t.architecture == machine and t.features <= features]
        return find(made_for["name"]) if gpu or not fits else fits[0]

    def _require_opencl(self, name: str) -> None:
        if not self.facts.get("opencl"):
            raise UserError(
                "the device's server offers no OpenCL",
                got=f"{self.name}, {name}",
                allowed="a target of its processor; or a server with TVM's OpenCL runtime",
                next=f"on the device: {BUILD}, then restart its server",
            )

    def _own_gpu(self) -> Target:
        """The GPU that the device's driver tells of; on x86-64 any OpenCL device is the same target."""
        if not self.facts:
            raise UserError(
                "it is not known which GPU this device has",
                got=self.name,
                allowed="a device with our server, which tells it; or a target by its name",
                next="name it: --target mali or --target adreno (codesign targets lists all)",
            )
        self._require_opencl(GPU)
        if self.facts.get("machine") == "x86_64":
            return find("opencl")
        return device_targets(self.description)[f"{self._slug}/{GPU}"]

    def check_runs(self, made_for: Mapping[str, Any]) -> None:
        """Raise UserError if the device cannot run a bundle made for the target of its manifest."""
        if not self.facts:
            return
        needs = made_for["machine"], frozenset(made_for["features"]), made_for.get("triple", "")
        if lacks := self._lacks(*needs):
            raise UserError(
                "this bundle is for another device",
                got=f"{self.name}: {lacks}",
                allowed=f"{made_for['name']}: {_needs(*needs)}",
                next=f"compile it for this device: codesign compile MODEL --device {self.key}",
            )

    def _lacks(self, architecture: str, features: frozenset[str], triple: str) -> str:
        """What the device is, if that is not enough for code of an architecture with features; else ""."""
        machine, missing = str(self.facts["machine"]), features - self.features
        other = machine == architecture and self._loads_android not in (None, "android" in triple)
        if machine == architecture and not missing and not other:
            return ""
        system = (
            f", where code for {_system(not self._loads_android)} does not load" if other else ""
        )
        return (f"{machine} without {', '.join(sorted(missing))}" if missing else machine) + system

    @property
    def _loads_android(self) -> bool | None:
        """Whether its server loads code for Android, or for Linux with glibc; None if that is not told."""
        if libc := self.facts.get("libc"):
            return bool(libc == "bionic")
        system = self.facts.get("system")
        return False if system == "linux" else None

    def _best(self) -> Target:
        if self.facts.get("machine") == "x86_64":
            vendor, model, features = parse_cpuinfo(str(self.facts.get("cpuinfo", "")))
            found = best_for(vendor, features)
            if found is not None:
                return found
            raise UserError(
                "no target fits the device", got=f"{self.name}: {model or 'no processor told'}",
                allowed=", ".join(n for n, t in KNOWN.items() if t.architecture == "x86_64"),
                next="name one of them with --target",
            )  # fmt: skip
        if self.facts:
            return device_targets(self.description)[self._slug]
        raise UserError(
            "it is not known what to compile for this device",
            got=self.name,
            allowed="a device with our server, which tells what it is; or a target by its name",
            next="name it: --target android-arm64 (codesign targets lists all)",
        )


def _system(android: bool) -> str:
    return "Android" if android else "Linux with glibc"


def _needs(architecture: str, features: Iterable[str], triple: str) -> str:
    return f"{architecture}, {_system('android' in triple)}, with {' '.join(sorted(features))}"


def look_at(where: Where, say: Callable[[str], None] = lambda _: None) -> Identity:
    """Ask a device of a key what it is, and give it back; ``say`` is told what is waited for.

    Raises:
        UserError: no tracker, or no device that answers with our server's facts.
    """
    assert where.device is not None
    with Fleet(Wanted(where.address, where.device), say) as fleet:
        identity = identify(fleet)
    if not identity.facts:
        raise UserError(
            "the device does not tell what it is", got=identity.name,
            allowed="our server: codesign devices serve",
            next="codesign targets lists descriptions to start from; copy one into a TOML file",
        )  # fmt: skip
    return identity


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
    return Identity(fleet.wanted.key, told.result or {}, asked.result or {}, fleet.wanted.kind)
