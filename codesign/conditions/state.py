"""The state of a device at one moment: heat, clocks, load, memory, battery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.conditions import sysfs
from codesign.frozen import FrozenMap
from codesign.schema import dump, load

HELD = frozenset({"performance", "userspace"})
"""Governors under which the clock of an idle processor stays up, so that a low one means something."""


@dataclass(frozen=True)
class Battery:
    """What a battery tells; None for what it does not.

    Attributes:
        percent: charge left.
        status: ``Discharging``, ``Charging``, ``Full``, ``Not charging`` or ``Unknown``.
        current_ua, voltage_uv: microampere (its sign differs between makers) and microvolt.
        charge_uah, energy_uwh: what is left, microampere hours and microwatt hours.
        temperature_c: degrees.
    """

    percent: float | None = None
    status: str | None = None
    current_ua: float | None = None
    voltage_uv: float | None = None
    charge_uah: float | None = None
    energy_uwh: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True)
class DeviceState:
    """A device as it tells of itself. None, or nothing in a mapping: the device does not tell.

    Attributes:
        temperatures_c: zone -> degrees.
        clocks_khz, max_clocks_khz: number of a processor -> clock now, and the highest it can have.
        governors: number of a processor -> what decides its clock.
        load: processors that are busy, on average over a short time.
        memory_free_bytes, disk_free_bytes: what may still be taken.
        battery: None if there is none.
        throttled: whether the device says that it holds its processors back.
        time: seconds since 1970 by the device's clock.
    """

    temperatures_c: Mapping[str, float] = field(default_factory=FrozenMap)
    clocks_khz: Mapping[str, float] = field(default_factory=FrozenMap)
    max_clocks_khz: Mapping[str, float] = field(default_factory=FrozenMap)
    governors: Mapping[str, str] = field(default_factory=FrozenMap)
    load: float | None = None
    memory_free_bytes: int | None = None
    disk_free_bytes: int | None = None
    battery: Battery | None = None
    throttled: bool | None = None
    time: float | None = None

    @classmethod
    def from_json(cls, data: Any) -> DeviceState:
        """Read what a device sent; null counts as absent.

        Raises:
            UserError: an unknown key or a value of another type; it names the key.
        """
        return load(cls, _told(data), "the state of the device")

    def to_json(self) -> dict[str, Any]:
        """As it was read; None where nothing is told."""
        return dict(dump(self))

    @property
    def hottest(self) -> tuple[str, float] | None:
        """The zone with the highest temperature."""
        return max(self.temperatures_c.items(), key=lambda item: item[1], default=None)

    def clock_shares(self) -> dict[str, float]:
        """Processor -> its clock over its highest, where both are told and an idle one stays up."""
        return {
            cpu: clock / self.max_clocks_khz[cpu]
            for cpu, clock in self.clocks_khz.items()
            if self.max_clocks_khz.get(cpu, 0) > 0 and self.governors.get(cpu) in HELD
        }


def read_local_state(
    sys: Path = sysfs.SYS, proc: Path = sysfs.PROC, *, load_seconds: float = 0.2
) -> DeviceState:
    """The state of this machine; it takes as long as the load is observed."""
    return DeviceState.from_json(sysfs.read_state(sys, proc, load_seconds=load_seconds))


def _told(value: Any) -> Any:
    """Without what is null."""
    if isinstance(value, Mapping):
        return {key: _told(part) for key, part in value.items() if part is not None}
    return value
