"""Members that are free: those that hold a device are taken first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from codesign.fleet.member import Member


class Pool:
    """Free members, for threads to take one at a time.

    Args:
        members: all are free at first.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._free = [(time.monotonic(), member) for member in members]
        self._changed = threading.Condition()

    def take(self) -> Member:
        """Wait for a free member; of several the last one that holds a device, or else the longest idle."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            holding = [i for i, (_, member) in enumerate(self._free) if member.holds]
            return self._free.pop(holding[-1] if holding else 0)[1]

    def put(self, member: Member) -> None:
        """Give a member back."""
        with self._changed:
            self._free.append((time.monotonic(), member))
            self._changed.notify()

    def idle(self, seconds: float) -> Iterator[Member]:
        """Take, one after the other, the members that were free for so long; each is to be put back."""
        began = time.monotonic()
        while True:
            with self._changed:
                old = [i for i, (since, _) in enumerate(self._free) if began - since > seconds]
                if not old:
                    return
                member = self._free.pop(old[0])[1]
            yield member
