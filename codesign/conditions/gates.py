"""Whether a device is fit to be timed, and waiting until it is.

What a device does not tell is never taken for a limit kept: it is listed, and the outcome is unknown.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from codesign.conditions.state import DeviceState
from codesign.schema import dump

Status = Literal["fit", "unfit", "unknown"]
MIB = 1 << 20


@dataclass(frozen=True)
class Reason:
    """Why a device is not fit.

    Attributes:
        what: the limit, as people call it.
        got, allowed: with units.
        passes: True if waiting may mend it.
    """

    what: str
    got: str
    allowed: str
    passes: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.got} (allowed: {self.allowed})"


@dataclass(frozen=True)
class Gate:
    """Limits; None: not asked for. The defaults let a phone or board at rest pass, see `PHONE`.

    Attributes:
        max_temperature_c: of the hottest zone before the run. 45: a phone at rest is at 30 to 40, its skin
            limit, at which makers lower the clocks, is 40 to 48 and the chip is a few degrees above the skin.
        min_clock_share: of its highest, for processors whose governor keeps idle ones up. Not asked for by
            default: most governors let an idle processor sleep, and then its clock says nothing.
        max_load: processors that others keep busy.
        min_battery_percent: savers of energy set in below 15 to 20.
        min_memory_bytes, min_disk_bytes: a model and its library have to fit.
        allow_throttled: if False, a device that says it is throttled is not fit.
    """

    max_temperature_c: float | None = 45.0
    min_clock_share: float | None = None
    max_load: float | None = 0.5
    min_battery_percent: float | None = 20.0
    min_memory_bytes: int | None = 256 * MIB
    min_disk_bytes: int | None = 64 * MIB
    allow_throttled: bool = False

    def check(self, state: DeviceState) -> list[Reason]:
        """The limits that what the state tells does not keep; the first is the weightiest."""
        found = (self._heat(state), self._throttling(state), self._clock(state))
        return [reason for reason in (*found, *self._amounts(state)) if reason is not None]

    def untold(self, state: DeviceState) -> list[str]:
        """The limits of which the state tells nothing."""
        battery = state.battery
        wanted = (
            ("temperature", self.max_temperature_c, bool(state.temperatures_c)),
            ("throttling", None if self.allow_throttled else False, state.throttled is not None),
            ("clock under load", self.min_clock_share, bool(state.clock_shares())),
            ("load", self.max_load, state.load is not None),
            ("battery charge", self.min_battery_percent,
             battery is not None and battery.percent is not None),
            ("free memory", self.min_memory_bytes, state.memory_free_bytes is not None),
            ("free disk", self.min_disk_bytes, state.disk_free_bytes is not None),
        )  # fmt: skip
        return [name for name, limit, told in wanted if limit is not None and not told]

    def _heat(self, state: DeviceState) -> Reason | None:
        hottest, limit = state.hottest, self.max_temperature_c
        if hottest is None or limit is None or hottest[1] <= limit:
            return None
        return Reason("temperature", f"{hottest[1]:.1f} °C at {hottest[0]}", f"{limit:g} °C")

    def _throttling(self, state: DeviceState) -> Reason | None:
        if self.allow_throttled or not state.throttled:
            return None
        return Reason("throttling", "the device holds its processors back", "full speed")

    def _clock(self, state: DeviceState) -> Reason | None:
        shares, limit = state.clock_shares(), self.min_clock_share
        if not shares or limit is None:
            return None
        cpu = min(shares, key=lambda name: shares[name])
        if shares[cpu] >= limit:
            return None
        return Reason(
            "clock", f"{shares[cpu]:.0%} of the highest at processor {cpu}", f"{limit:.0%} or more"
        )

    def _amounts(self, state: DeviceState) -> list[Reason]:
        percent = state.battery.percent if state.battery else None
        found = []
        if self.max_load is not None and state.load is not None and state.load > self.max_load:
            got = f"{state.load:.2f} processors busy"
            found.append(Reason("load", got, f"{self.max_load:g}"))
        least = self.min_battery_percent
        if least is not None and percent is not None and percent < least:
            found.append(Reason("battery", f"{percent:g} %", f"{least:g} % or more", passes=False))
        for what, free, need in (
            ("free memory", state.memory_free_bytes, self.min_memory_bytes),
            ("free disk", state.disk_free_bytes, self.min_disk_bytes),
        ):
            if free is not None and need is not None and free < need:
                got, allowed = f"{free / MIB:.0f} MiB", f"{need / MIB:.0f} MiB or more"
                found.append(Reason(what, got, allowed, passes=what == "free memory"))
        return found


PHONE = Gate()
"""Cooled by its skin alone."""

BOARD = Gate(60.0, max_load=0.3, min_battery_percent=None, min_disk_bytes=None)
"""A bare board without a fan rests at 45 to 55 and is slowed from 80 on, the smallest ones from 60."""

HOST = Gate(80.0, min_battery_percent=None, min_disk_bytes=None)
"""Desktop processors reach 60 to 75 at any work and are slowed from 90 to 100 on."""

OPEN = Gate(None, None, None, None, None, None, allow_throttled=True)
"""Asks for nothing; `dataclasses.replace` gives it single limits."""


@dataclass(frozen=True)
class Outcome:
    """What came of waiting.

    Attributes:
        status: ``fit``: every limit was told and kept; ``unfit``: one was not kept; ``unknown``: of what was
            told all was kept, but not everything was told.
        reasons: limits not kept at the end.
        untold: limits of which the device told nothing.
        waited_seconds: in all.
        state: the last one read.
    """

    status: Status
    reasons: tuple[Reason, ...]
    untold: tuple[str, ...]
    waited_seconds: float
    state: DeviceState

    @property
    def fit(self) -> bool:
        return self.status == "fit"

    def __str__(self) -> str:
        parts: list[str] = [self.status]
        if self.waited_seconds >= 1:
            parts.append(f"after {self.waited_seconds:.0f} s")
        text = " ".join(parts)
        if self.reasons:
            text += ": " + "; ".join(map(str, self.reasons))
        return text + (f"; not told: {', '.join(self.untold)}" if self.untold else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "reasons": dump(self.reasons),
            "untold": list(self.untold),
            "waited_seconds": self.waited_seconds,
        }


def wait_until_fit(
    read_state: Callable[[], DeviceState],
    gate: Gate,
    patience_seconds: float,
    sleep: Callable[[float], object] = time.sleep,
    now: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = lambda text: None,
    *,
    every_seconds: float = 5.0,
) -> Outcome:
    """Let a device cool down or become idle, but not for ever.

    Args:
        read_state: asks the device; what it raises goes through.
        patience_seconds: longest wait. It ends at once when no time mends a reason.
        say: told why and how long, whenever the reasons change.
        every_seconds: between two looks.
    """
    start = now()
    looks = math.ceil(patience_seconds / every_seconds)  # a clock that stands still ends it too
    told: list[str] = []
    while True:
        state = read_state()
        reasons, waited = gate.check(state), max(0.0, now() - start)
        left = patience_seconds - waited
        if not reasons or not all(r.passes for r in reasons) or left <= 0 or looks <= 0:
            break
        looks -= 1
        if told != [r.what for r in reasons]:
            told = [r.what for r in reasons]
            say(f"waiting up to {left:.0f} s: {'; '.join(map(str, reasons))}")
        sleep(min(every_seconds, left))
    untold = gate.untold(state)
    status: Status = "unfit" if reasons else "unknown" if untold else "fit"
    return Outcome(status, tuple(reasons), tuple(untold), waited, state)
