"""The devices of one key as one worker that does not die: requests are retried, and blame is found out.

A request that fails may be the request's fault or the device's. After a failure the device is asked for a new
session and for the reference kernel: if it computes that, the failure is a strike against the request, and
after two strikes it is the request's; if it does not, the device rests (`Breakers`), and the request is tried
on what is left. So a kernel that crashes every device costs two sessions, and a device that is dying costs no
kernel its measurement.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from codesign.conditions import Gate
from codesign.errors import UserError
from codesign.fleet.breaker import Breakers
from codesign.fleet.calibration import Calibration
from codesign.fleet.case import Case
from codesign.fleet.fitness import Fitness
from codesign.fleet.incidents import Diary
from codesign.fleet.member import ABSENT, MISFIT, RESTING, THREADS, Member, Wanted
from codesign.fleet.no_device import few_processors, none_to_be_had, other_tvm, unloadable
from codesign.fleet.pool import Pool
from codesign.fleet.threads import Threads
from codesign.fleet.tracker import Queue, queue_of
from codesign.worker import UNLOADABLE, Failure, Reply

PATIENCE = 120.0
"""Seconds that a request waits for any device of the key, before the run is stopped."""

MOST = 8
"""Devices that measure side by side, at most."""

EXAMINE_SECONDS = 30.0
"""Time for a device that failed to show that it is well."""

IDLE_SECONDS = 3.0
"""A device that was not asked anything for so long is given back if somebody else waits."""

RUNS = frozenset({"run_kernel", "time_kernel", "run_bundle", "time_bundles"})
"""Requests that run on a device what was built for it."""

_STEP_SECONDS = 1.0
_FIRST_LOOK_SECONDS = 10.0

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Examination:
    """A kernel whose result is known.

    Attributes:
        params, blobs: of the request ``run_kernel``.
        expected: its only output.
    """

    params: Mapping[str, Any]
    blobs: tuple[bytes, ...]
    expected: NDArray[np.float32]

    def passed(self, reply: Reply) -> bool:
        """Whether a device computed what it should."""
        if len(reply.blobs) != 1 or len(reply.blobs[0]) != self.expected.nbytes:
            return False
        found = np.frombuffer(reply.blobs[0], np.float32).reshape(self.expected.shape)
        return bool(np.allclose(found, self.expected, rtol=1e-3, atol=1e-3))


class Fleet:
    """Devices of one key, as many at a time as there are.

    Args:
        wanted: tracker, key, and how libraries run there.
        say: told of everything that goes wrong, in one line.
        patience: seconds that a request waits for a device.

    Raises:
        NoDeviceError: the tracker does not answer, or knows no device of the key.
    """

    def __init__(
        self,
        wanted: Wanted,
        say: Callable[[str], None] = lambda _: None,
        patience: float = PATIENCE,
    ) -> None:
        self.wanted, self.patience = wanted, patience
        self.examine_seconds = EXAMINE_SECONDS
        self.diary = Diary(say)
        self.breakers = Breakers()
        self.calibration = Calibration()
        self._misfits: set[str] = set()
        self._proven: set[str] = set()
        """Addresses of devices that ran something built here."""
        self._away = False
        self.examination: Examination | None = None
        """How a device shows that it is well; without it, by opening a session."""
        self.fitness: Fitness | None = None
        """Limits that a device has to keep before it measures; None: it measures as it is."""
        self._closing = threading.Event()
        found = self._first_look()
        self.parallel = max(1, min(found.servers, MOST))
        self.members = [Member(wanted) for _ in range(self.parallel)]
        self._free = Pool(self.members)
        self._threads = Threads(self.parallel)
        self._steward = threading.Thread(target=self._share, daemon=True)
        self._steward.start()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def request(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        blobs: Sequence[bytes | memoryview] = (),
        *,
        deadline: float = 60.0,
    ) -> Reply | Failure:
        """As `Worker.request`, on a device of the key.

        Raises:
            NoDeviceError: none could be had within the fleet's patience.
        """
        return self._threads.run(self._request, op, dict(params or {}), blobs, deadline)

    def submit(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        blobs: Sequence[bytes | memoryview] = (),
        *,
        deadline: float = 60.0,
    ) -> Future[Reply | Failure]:
        """The same, without waiting for it."""
        return self._threads.submit(self._request, op, dict(params or {}), blobs, deadline)

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
        """Do it with each item, which may make requests, on as many devices as there are: `Threads.each`."""
        return self._threads.each(work, items)

    def require(self, gate: Gate) -> None:
        """From now on devices measure only while they keep these limits."""
        self.fitness = Fitness(gate, self.patience, self.diary, self._closing.wait)

    def run_on(self, cpus: str) -> None:
        """From now on sessions run on these processors of a device, such as ``4-7``."""
        self.wanted = replace(self.wanted, cpus=cpus)
        for member in self.members:
            member.wanted = self.wanted
            member.give_back()

    def close(self) -> None:
        """Give all devices back; requests that are on their way fail."""
        self._closing.set()
        for member in self.members:
            member.worker.kill()
        self._threads.close()
        for member in self.members:
            member.drop()

    def _request(
        self,
        op: str,
        params: Mapping[str, Any],
        blobs: Sequence[bytes | memoryview],
        deadline: float,
    ) -> Reply | Failure:
        case = Case(op)
        while not self._closing.is_set():
            member = self._free.take()
            try:
                if not self._hold(member, deadline):
                    self._lose_patience(case)
                    continue
                self._away = False
                case.found_well(member.device)
                if case.guilty:
                    return case.verdict()
                began = time.monotonic()
                reply = member.worker.request(op, params, blobs, deadline=deadline)
                self.diary.waited(time.monotonic() - began, op)
                if isinstance(reply, Reply) and op in RUNS:
                    self._proven.add(member.address)
                if isinstance(reply, Reply) or reply.kind == "error":
                    return reply
                if self._closing.is_set():
                    break  # it was ended from here: no fault of anybody's
                case.failed(member.device, reply)
                if self._recovers(member, case, began) and case.guilty:
                    return case.verdict()
            finally:
                self._free.put(member)
        return Failure("device", "the run was stopped")

    def _hold(self, member: Member, lasting: float) -> bool:
        """Have the member hold a device that is well for so many seconds; what is in the way is noted."""
        began = time.monotonic()
        if not member.holds:
            try:
                known = queue_of(self.wanted.tracker, self.wanted.key)
            except UserError as error:
                return self._wait(_in_a_line(error), began)
            if known.servers == 0:
                if not known.away:
                    return self._wait("no device is registered", began)
                if not self._away:  # said once; the tracker, where it is waited for, has it first
                    self._away, then = True, f"waits up to {self.patience:.0f} s"
                    self.diary.note(self.wanted.key, known.away, 0.0, then)
        failure = member.ready(
            self.patience,
            goes_on=lambda: not self._closing.is_set(),
            wanted=lambda address: self.breakers.resting(address) == 0,
            lasting=lasting,
        )
        self.diary.waited(time.monotonic() - began, "a session")
        if failure is not None:
            return not self._closing.is_set() and self._no_session(member, failure, began)
        if self.fitness is not None and not self.fitness.is_fit(member):
            self.breakers.failed(member.address)
            member.give_back()
            return False
        if member.address not in self.breakers.sick():
            return True
        if not self._examined(member):
            device, rest = member.device, self.breakers.failed(member.address)
            member.drop()
            lost = time.monotonic() - began
            self.diary.note(
                device, "it does not compute the reference kernel", lost, f"rests {rest:.0f} s"
            )
            return False
        self.breakers.worked(member.address)
        lost = time.monotonic() - began
        self.diary.note(member.device, "it works again", lost, "taken back")
        return True

    def _no_session(self, member: Member, failure: Failure, began: float) -> bool:
        """A device that does not begin a session rests; one that has another TVM is left alone."""
        device = member.device
        if failure.kind in (MISFIT, THREADS):
            member.drop()
            self._misfits.add(device)
            if len(self._misfits) >= self.parallel:
                if failure.kind == THREADS:
                    got = failure.text.removeprefix("FewThreadsError: ")
                    raise few_processors(self.wanted.key, got)
                raise other_tvm(self.wanted.key, failure.text)
            then = "it is left alone"
        elif failure.kind == RESTING:
            self._closing.wait(_STEP_SECONDS)
            return False
        elif failure.kind == ABSENT:
            device, then = self.wanted.key, "tried again"
        else:
            member.drop()
            then = f"rests {self.breakers.failed(member.address):.0f} s"
        self.diary.note(device, f"no session: {failure}", time.monotonic() - began, then)
        return False

    def _wait(self, why: str, began: float) -> bool:
        self._closing.wait(_STEP_SECONDS)
        self.diary.note(self.wanted.key, why, time.monotonic() - began, "tried again")
        return False

    def _recovers(self, member: Member, case: Case, began: float) -> bool:
        """After a failure: whether a new session computes the reference kernel; otherwise the device rests."""
        device, address = member.device, member.address
        what = f"{case.op} failed: {case.last}"
        member.drop()
        well = member.ready(self.examine_seconds) is None and self._examined(member)
        lost = time.monotonic() - began
        self.diary.waited(lost, f"{case.op}, and the examination of the device")
        if well and member.device == device:
            case.found_well(device)
            then = "the device is well, so this is put down to what it ran"
            self.diary.note(device, what, lost, then if case.guilty else "tried again")
            return True
        if not well:
            member.drop()
        rest = self.breakers.failed(address)
        self.diary.note(device, what, lost, f"rests {rest:.0f} s, the work goes to what is left")
        return well

    def _share(self) -> None:
        """Give devices back that are idle while somebody else waits for one."""
        while not self._closing.wait(IDLE_SECONDS):
            for member in self._free.idle(IDLE_SECONDS):
                try:
                    if member.holds and member.contended():
                        member.give_back()
                finally:
                    self._free.put(member)

    def _examined(self, member: Member) -> bool:
        known = self.examination
        if known is None:
            return True  # it opened a session
        answer = member.worker.request(
            "run_kernel", known.params, known.blobs, deadline=self.examine_seconds
        )
        if isinstance(answer, Failure) and answer.kind == UNLOADABLE:
            self._cannot_load(member, answer)
        return isinstance(answer, Reply) and known.passed(answer)

    def _cannot_load(self, member: Member, failure: Failure) -> None:
        """Give up on a device that cannot load the reference kernel and never ran anything built here.

        Raises:
            NoDeviceError: there is no other.
        """
        if member.address in self._proven:
            return
        self._misfits.add(member.device)
        if len(self._misfits) < self.parallel:
            return
        member.drop()
        raise unloadable(self.wanted.key, self.wanted.tracker, _first_line(failure.text))

    def _lose_patience(self, case: Case) -> None:
        if any(member.holds for member in self.members):
            # there is a device, it is only busy with another request
            case.without = time.monotonic()
        waited = time.monotonic() - case.without
        self.diary.waited(waited, "a device")
        if waited > self.patience:
            last = self.diary.incidents[-1:]
            raise none_to_be_had(
                self.wanted.key,
                self.wanted.tracker,
                f"for {waited:.0f} s",
                str(last[0]) if last else "all are resting",
            )

    def _first_look(self) -> Queue:
        """The queue of the key, waiting a moment for devices that are just registering."""
        seconds, told = min(self.patience, _FIRST_LOOK_SECONDS), False
        until = time.monotonic() + seconds
        while True:
            first = ""
            try:
                found = queue_of(self.wanted.tracker, self.wanted.key)
                if found.servers:
                    return found
                keys = ", ".join(found.keys) or "none"
                why = found.away or f"the tracker knows no device of this key; keys there: {keys}"
            except UserError as error:
                why, first = _in_a_line(error), error.next
            if time.monotonic() > until:
                raise none_to_be_had(self.wanted.key, self.wanted.tracker, "", why, first)
            if not told:
                told = True
                self.diary.say(f"{self.wanted.key}: {why}; waits {seconds:.0f} s for it")
            time.sleep(_STEP_SECONDS / 2)


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def _in_a_line(error: UserError) -> str:
    """What happened and what was got."""
    return f"{error.what}: {error.got}" if error.got else error.what
