"""Timing on a machine that others use too: only calls between two undisturbed ones count.

Before and after each timed call a fixed loop of register-only multiply-adds runs. Where it is slower
than its best by more than a few percent, someone else had the core or the clock was low, and the call
between is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tvm

from benchmarks.peers.statistics import median, median_interval
from targets.kernels.peak import fma_peak, vnni_peak
from targets.target import Target

_ROUNDS = 20_000  # about 70 us a loop
_TOLERANCE = 1.04
_TIMED_SECONDS = 60e-6  # calls are repeated until a sample takes at least this long


@dataclass(frozen=True)
class Timing:
    """Seconds a call took.

    Attributes:
        samples: of the undisturbed calls; if there were none, the fastest quarter of all.
        disturbed: calls that were not counted.
        clean: False if no call was undisturbed.
    """

    samples: tuple[float, ...]
    disturbed: int
    clean: bool

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the median."""
        return median_interval(self.samples)


@dataclass
class Clock:
    """Times calls beside the machine's peak for ``target`` and its number of threads.

    ``now`` is the clock that is read. Calls longer than a time slice are never undisturbed on a busy
    machine; where all work is on the calling thread, ``time.thread_time`` leaves out what others ran.
    """

    target: Target
    now: Callable[[], float] = time.perf_counter
    best: float = float("inf")
    operations: int = 0
    _loop: Callable[[], object] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        func, self.operations = fma_peak(self.target, _ROUNDS)
        self._loop = _bound(func, self.target, "float32", self.target.lanes)
        for _ in range(200):
            self._probe()

    def _probe(self) -> float:
        """Seconds of one run of the loop; remembers the best."""
        start = self.now()
        self._loop()
        seconds = self.now() - start
        self.best = min(self.best, seconds)
        return seconds

    @property
    def peak_gflops(self) -> float:
        """float32 multiply-adds in registers, the best seen: thousand million operations a second."""
        return self.operations / self.best / 1e9

    def measure(self, call: Callable[[], object], count: int, limit_s: float) -> Timing:
        """Time ``call`` until ``count`` undisturbed samples or ``limit_s`` seconds."""
        call()
        start = self.now()
        call()
        repeats = max(1, round(_TIMED_SECONDS / (self.now() - start)))
        samples: list[tuple[float, float]] = []
        clean: list[float] = []
        deadline = time.perf_counter() + limit_s
        while len(clean) < count and time.perf_counter() < deadline:
            self._probe()
            before = self._probe()
            start = self.now()
            for _ in range(repeats):
                call()
            seconds = (self.now() - start) / repeats
            slowest = max(before, self._probe())
            samples.append((slowest, seconds))
            clean = [s for probe, s in samples if probe <= _TOLERANCE * self.best]
            if slowest > 1.3 * self.best:
                time.sleep(0.005)
        if clean:
            return Timing(tuple(clean), len(samples) - len(clean), True)
        fastest = sorted(s for _, s in samples)[: max(1, len(samples) // 4)]
        return Timing(tuple(fastest), len(samples) - len(fastest), False)


def vnni_call(target: Target) -> tuple[Callable[[], object], int]:
    """(a call of the register-only VNNI loop, operations it does)."""
    func, operations = vnni_peak(target, _ROUNDS)
    return _bound(func, target, "int8", 4 * target.lanes), operations


def _bound(func: tvm.tirx.PrimFunc, target: Target, dtype: str, width: int) -> Callable[[], object]:
    """A peak kernel with its arguments."""
    shape = tuple(int(d) for d in func.params[-1].shape)
    a, b = (tvm.runtime.tensor(np.full(width, v).astype(dtype)) for v in (0.5, 1.0))
    y = tvm.runtime.tensor(np.zeros(shape, "float32" if dtype == "float32" else "int32"))
    kernel = tvm.compile(func, target=target.tvm())["main"]
    return lambda: kernel(a, b, y)
