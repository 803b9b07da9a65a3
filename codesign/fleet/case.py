"""Whose fault a failure is: the request's, or the device's that it ran on."""

from __future__ import annotations

import time

from codesign.worker import Failure

STRIKES = 2
"""Failures on devices that were found well afterwards, after which a request is at fault."""


class Case:
    """One request under suspicion: it is guilty if devices fail with it that are well without it."""

    def __init__(self, op: str) -> None:
        self.op = op
        self.last = Failure("device", "")
        self.without = time.monotonic()
        """Since when it waits for a device."""
        self._strikes = 0
        self._on: set[str] = set()
        self._open: set[str] = set()

    def failed(self, device: str, failure: Failure) -> None:
        """It failed there; whose fault that is will be seen."""
        self.last = failure
        self._on.add(device)
        self._open.add(device)
        self.without = time.monotonic()

    def found_well(self, device: str) -> None:
        """The device is well: if the request failed there, that is a strike."""
        if device in self._open:
            self._open.remove(device)
            self._strikes += 1

    @property
    def guilty(self) -> bool:
        return self._strikes >= STRIKES

    def verdict(self) -> Failure:
        """The last failure, with why it is not the device's."""
        where = ", ".join(sorted(self._on))
        return Failure(
            self.last.kind,
            f"{self.last.text}\nagain and again, on a device that is well otherwise: {where}",
        )
