"""Where things are measured: this machine, or the devices of a key over RPC, with the target that they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from codesign.conditions import OPEN
from codesign.device import this_device
from codesign.fleet import Fleet, Wanted
from codesign.fleet.identity import Identity, identify
from codesign.measure import Rig
from codesign.measurement import Protocol
from codesign.where import GPU, Where
from targets.target import HOST_NAMES, Target, find, host

EMULATED: Mapping[str, Any] = {"warmup": 0, "repeats": 1, "retries": 0, "max_seconds": 0.1}
"""What is different where an emulator measures: its times are kept as short as they are worth."""


@dataclass(frozen=True)
class Station:
    """What measures.

    Attributes:
        target: what it is compiled for.
        device: its identity in records.
        rig: builds and times; closed with the station.
        told: what the device says of itself; None if it is this machine.
        measures: whether there is anything to run code of the target on; without, nothing is tuned.
    """

    target: Target
    device: str
    rig: Rig
    told: Identity | None = None
    measures: bool = True

    @property
    def here(self) -> Target:
        """What this machine runs: the target itself, unless a device measures."""
        runs_here = self.told is None and self.measures
        return self.target if runs_here else host(self.target.threads)

    @property
    def emulated(self) -> bool:
        """Whether times are an emulator's, and say nothing about any device."""
        return self.told is not None and self.told.emulated

    def facts(self) -> dict[str, Any]:
        """For reports: which device, its threads, and what went wrong with it."""
        found: dict[str, Any] = {"device": self.device, "threads": self.target.threads}
        if self.rig.fleet is None:
            return found
        usual = self.rig.fleet.calibration.usual()
        return found | {
            "emulated": self.emulated,
            "devices": {name: f"reference kernel {s * 1e6:.0f} us" for name, s in usual.items()},
            "supervision": self.rig.fleet.diary.to_json(),
        }


@contextmanager
def open_station(
    where: Where,
    protocol: Protocol | None = None,
    say: Callable[[str], None] = lambda _: None,
    made_for: Mapping[str, Any] | None = None,
) -> Iterator[Station]:
    """What measures where the user wants it.

    Args:
        say: is told what goes wrong with devices.
        made_for: target in the manifest of the only bundle that the device will run, in place of a name.

    Raises:
        TargetError: an unknown target.
        UserError: no tracker, no device, or the device cannot run code of the target.
    """
    protocol = protocol or Protocol(threads=where.threads)
    if where.device is None:
        target = find(where.target, where.threads)
        with Rig(target, protocol) as rig:
            yield Station(target, this_device(), rig, measures=target.runs_here)
        return
    kind = "llvm"
    if made_for is not None:
        kind = str(made_for["kind"])
    elif where.target == GPU:
        kind = "opencl"
    elif where.target not in HOST_NAMES:
        kind = find(where.target, where.threads).kind
    wanted = Wanted(where.address, where.device, where.threads, kind=kind)
    with Fleet(wanted, say) as fleet:
        identity = identify(fleet)
        found = identity.target(where.target) if made_for is None else identity.target_of(made_for)
        target = found.with_threads(where.threads)
        if where.cpus:
            fleet.run_on(identity.cpus(where.cpus))
        if identity.gate != OPEN:
            fleet.require(identity.gate)
        if identity.emulated:
            protocol = replace(protocol, **EMULATED)
        with Rig(target, protocol, fleet) as rig:
            yield Station(target, identity.name, rig, identity)
