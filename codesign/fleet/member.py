"""One worker that holds one device of a key at a time, and gives it back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from codesign.devices.client import TrackerClient
from codesign.devices.wire import Address
from codesign.errors import UserError
from codesign.fleet.tracker import queue_of
from codesign.versions import TVM, TVM_FFI
from codesign.worker import Failure, Worker

SESSION_SECONDS = 600.0
"""Length of a session that a server of ours is asked for: it ends when its client is gone, if not before."""

STOCK_SECONDS = 120.0
"""The same of TVM's own server, which a kernel that hangs keeps until then, whatever became of its client."""

_MARGIN_SECONDS = 30.0
"""A session is asked to last so much longer than the request that it is opened for."""

RENEW_SECONDS = 300.0
"""A session older than this is given back before it is used again."""

SHARE_SECONDS = 20.0
"""A session older than this is given back if somebody else waits for the key."""

OPEN_SECONDS = 30.0
"""Time for a device to begin a session, once the tracker has handed it out."""

ABSENT, RESTING, MISFIT, THREADS = "absent", "resting", "misfit", "threads"
"""Kinds of failures: no device was handed out; one that is not wanted now; one that has another TVM, or runs
fewer threads than the kernels have."""

_CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Wanted:
    """What a session is opened for.

    Attributes:
        threads: of the kernels.
        cpus: processors to run on, such as ``4-7``; "" for all.
        kind: code generator of the libraries.
    """

    tracker: Address
    key: str
    threads: int = 1
    cpus: str = ""
    kind: str = "llvm"


class Member:
    """A worker and the device that it holds."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.worker = Worker()
        self.open_seconds = OPEN_SECONDS
        self.told: Mapping[str, Any] = {}
        self.address = ""
        self._generation = 0
        self._opened = 0.0
        self._ends = 0.0

    @property
    def device(self) -> str:
        """The serial of the device it holds, or held last; where a server tells none, its address."""
        return str(self.told.get("serial") or self.wanted.key)

    @property
    def holds(self) -> bool:
        """Whether a session is open, as far as known."""
        alive = self.worker.pid is not None
        return alive and bool(self._opened) and self._generation == self.worker.generation

    def ready(
        self,
        seconds: float,
        goes_on: Callable[[], bool] = lambda: True,
        wanted: Callable[[str], bool] = lambda address: True,
        lasting: float = 0.0,
    ) -> Failure | None:
        """Hold a device; None if it does, otherwise why not.

        Args:
            seconds: to wait for a free one; opening the session has its own deadline.
            goes_on: asked while it waits whether it still should.
            wanted: whether a device at an address is; one that is not is left to the tracker, which offers
                it again seconds later.
            lasting: seconds that the session has to last from now on.
        """
        if self.holds and not self._overdue(lasting):
            return None
        self.give_back()
        failure = self.worker.start()
        if failure is not None:
            return failure
        try:
            with TrackerClient(self.wanted.tracker) as client:
                address, match_key = client.request(self.wanted.key, seconds, goes_on)
                most = STOCK_SECONDS if client.tells_nothing(address) else SESSION_SECONDS
        except TimeoutError as error:
            return Failure(ABSENT, f"{error}{self._told_of_all()}")
        except UserError as error:
            return Failure(ABSENT, next(iter(str(error).splitlines()), "the tracker went away"))
        self.address, self.told = str(address), {"serial": str(address)}  # all that is known of it
        if not wanted(self.address):
            return Failure(RESTING, f"{address} rests")
        length = max(most, lasting + _MARGIN_SECONDS)
        params = {
            "address": [address.host, address.port],
            "key": match_key,
            "seconds": math.ceil(length),
            "threads": self.wanted.threads,
            "cpus": self.wanted.cpus,
            "kind": self.wanted.kind,
        }
        reply = self.worker.request("open_session", params, deadline=self.open_seconds)
        if isinstance(reply, Failure):
            return reply
        self.told, self._opened = dict(reply.result), time.monotonic()
        self._ends = self._opened + length
        self._generation = self.worker.generation
        return self._misfit()

    def _misfit(self) -> Failure | None:
        """Why the device cannot run what is built here; None if it can, as far as it tells."""
        told = self.told.get("versions") or {}
        wrong = [
            f"{package} {told[name]}, not {version}"
            for name, package, version in (
                ("tvm", "apache-tvm", TVM), ("tvm_ffi", "apache-tvm-ffi", TVM_FFI),
            )
            if told.get(name) not in (None, version)
        ]  # fmt: skip
        return Failure(MISFIT, f"the device has {' and '.join(wrong)}") if wrong else None

    def give_back(self) -> None:
        """End the session; a worker that does not is killed."""
        if self.holds:
            reply = self.worker.request("close_session", deadline=_CLOSE_SECONDS)
            if isinstance(reply, Failure):
                self.worker.close()
        self._opened = 0.0

    def drop(self) -> None:
        """End the worker, and the session with it."""
        self.worker.close()
        self._opened = 0.0

    def _told_of_all(self) -> str:
        """How the devices of the key are, as far as the tracker tells."""
        try:
            told = queue_of(self.wanted.tracker, self.wanted.key).told
        except UserError:
            return ""
        return f": {told}" if told else ""

    def _overdue(self, lasting: float) -> bool:
        now = time.monotonic()
        if now + lasting > self._ends:
            return True
        age = now - self._opened
        if age < SHARE_SECONDS:
            return False
        return age > RENEW_SECONDS or self.contended()

    def contended(self) -> bool:
        """Whether somebody else waits for a device of the key, as far as the tracker tells."""
        try:
            return queue_of(self.wanted.tracker, self.wanted.key).pending > 0
        except UserError:
            return False  # a session that is open needs no tracker
