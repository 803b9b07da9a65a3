"""A device is let cool down before it measures, and its state is looked at every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

from codesign.conditions import DeviceState, Gate, wait_until_fit
from codesign.fleet.incidents import Diary
from codesign.fleet.member import Member
from codesign.worker import Failure

LOOK_SECONDS = 15.0
"""A device that was fit is not asked again for so long."""

_ASK_SECONDS = 10.0


class Fitness:
    """Waits until devices keep the limits of a gate.

    Args:
        gate: limits; what a device does not tell limits nothing.
        patience: seconds that a device is waited for, at most.
        diary: hears of it.
        sleep: waits; returns early when the run ends.
    """

    def __init__(
        self, gate: Gate, patience: float, diary: Diary, sleep: Callable[[float], object]
    ) -> None:
        self._gate, self._patience, self._diary, self._sleep = gate, patience, diary, sleep
        self._looked: dict[str, float] = {}

    def is_fit(self, member: Member) -> bool:
        """Whether the device of a member may measure now, after waiting for it if that may help."""
        if time.monotonic() - self._looked.get(member.device, -LOOK_SECONDS) < LOOK_SECONDS:
            return True
        try:
            outcome = wait_until_fit(
                lambda: _state_of(member),
                self._gate,
                self._patience,
                sleep=self._sleep,
            )
        except LookupError:
            return True  # it tells nothing, or is gone, which the request will show
        if outcome.waited_seconds >= 1.0:
            self._diary.waited(outcome.waited_seconds, f"{member.device} to be fit")
            then = "measured on" if outcome.status != "unfit" else "it rests"
            self._diary.note(member.device, f"it was {outcome}", outcome.waited_seconds, then)
        if outcome.status == "unfit":
            return False
        self._looked[member.device] = time.monotonic()
        return True


def _state_of(member: Member) -> DeviceState:
    """What the device tells of its state. Raises LookupError."""
    reply = member.worker.request("ask_device", {"what": "device.state"}, deadline=_ASK_SECONDS)
    if isinstance(reply, Failure) or not reply.result:
        raise LookupError(str(reply))
    return DeviceState.from_json(reply.result)
