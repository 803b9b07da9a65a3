"""Latency of a burst and of a long run: what a device gives while it is cool, and what it can keep up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from codesign.measurement import median, median_interval
from codesign.schema import dump

BURST_SECONDS = 5.0
"""A phone's case takes up the heat of some seconds before its clocks fall."""

_SETTLED = 0.02
_SLOWER = 0.03


@dataclass(frozen=True)
class Timed:
    """Latency at a moment: seconds since the run began, and seconds of one call."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Timing:
    """Median latency of a stretch of a run, with its 95 % confidence interval, in seconds.

    Attributes:
        start: of the stretch, seconds since the run began.
        count: blocks in it.
    """

    start: float
    seconds: float
    lo: float
    hi: float
    count: int

    @classmethod
    def of(cls, start: float, samples: Sequence[float]) -> Timing:
        lo, hi = median_interval(samples)
        return cls(start, median(samples), lo, hi, len(samples))

    def __str__(self) -> str:
        return f"{self.seconds * 1e3:.3f} ms [{self.lo * 1e3:.3f} to {self.hi * 1e3:.3f}]"


@dataclass(frozen=True)
class Plan:
    """A long run.

    Attributes:
        minutes: of it; the device works all the time.
        bin_seconds: of one stretch with a median of its own.
        burst_seconds: from the start, counted as the burst.
    """

    minutes: float
    bin_seconds: float = 60.0
    burst_seconds: float = BURST_SECONDS

    def __post_init__(self) -> None:
        if not (0 < self.burst_seconds <= self.bin_seconds and self.minutes > 0):
            raise ValueError(f"impossible plan: {self}")

    @property
    def seconds(self) -> float:
        return self.minutes * 60


@dataclass(frozen=True)
class Sustained:
    """What a long run showed.

    Attributes:
        burst: of the first seconds.
        per_minute: one for each bin of the plan, in order.
        steady: of the last third of the bins.
        drop: share of its speed that the device lost between them; below 0: it became faster.
        settled: False if the last bins still differ, so that a longer run would end elsewhere.
        label: which numbers these are.
    """

    burst: Timing
    per_minute: tuple[Timing, ...]
    steady: Timing
    drop: float
    settled: bool
    label: str = field(default="measured under load without a pause")

    @property
    def burst_seconds(self) -> float:
        return self.burst.seconds

    @property
    def steady_seconds(self) -> float:
        return self.steady.seconds

    @property
    def slows(self) -> bool:
        """True if the loss is larger than chance: the intervals do not meet, and it is over 3 %."""
        return self.drop > _SLOWER and self.steady.lo > self.burst.hi

    def to_json(self) -> dict[str, Any]:
        return dict(dump(self))

    def __str__(self) -> str:
        change = f"{self.drop:.0%} slower" if self.slows else "no loss that can be told from chance"
        text = f"burst {self.burst}, steady {self.steady}: {change}"
        return text if self.settled else f"{text}; not settled yet, a longer run would show more"


def run_sustained(
    block: Callable[[], Sequence[float]],
    plan: Plan,
    now: Callable[[], float] = time.monotonic,
    between: Callable[[], None] = lambda: None,
) -> list[Timed]:
    """Work without a pause as long as the plan says.

    Args:
        block: runs some calls, for a second or so, and gives the seconds of each; what it raises goes
            through. At least one value.
        between: called after each block; must be short (a meter's sample).
    """
    samples: list[Timed] = []
    start = now()
    begun = 0.0
    while begun < plan.seconds:
        found = block()
        ended = now() - start
        if not found or ended <= begun:
            raise ValueError("a block took no time or gave none")
        step = (ended - begun) / len(found)
        samples += [Timed(begun + (i + 0.5) * step, s) for i, s in enumerate(found)]
        begun = ended
        between()
    return samples


def sustained(samples: Sequence[Timed], plan: Plan) -> Sustained:
    """Burst, bins and steady state of a run; raises ValueError without samples."""
    if not samples:
        raise ValueError("a run without samples")
    ordered = sorted(samples, key=lambda s: s.at)
    bins: dict[int, list[float]] = {}
    last = max(0, int(plan.seconds / plan.bin_seconds - 1e-9))
    for sample in ordered:
        bins.setdefault(min(int(sample.at / plan.bin_seconds), last), []).append(sample.seconds)
    first = [s.seconds for s in ordered if s.at <= plan.burst_seconds] or [ordered[0].seconds]
    burst = Timing.of(0.0, first)
    per_bin = [Timing.of(i * plan.bin_seconds, values) for i, values in sorted(bins.items())]
    tail = sorted(bins)[-max(1, len(bins) // 3) :]
    if len(bins) == 1:  # a run of one bin: its last third
        values = [s.seconds for s in ordered[-max(1, len(ordered) // 3) :]]
        steady = Timing.of(ordered[-len(values)].at, values)
    else:
        steady = Timing.of(tail[0] * plan.bin_seconds, [s for i in tail for s in bins[i]])
    return Sustained(
        burst=burst,
        per_minute=tuple(per_bin),
        steady=steady,
        drop=1 - burst.seconds / steady.seconds,
        settled=_settled(per_bin),
    )


def _settled(bins: Sequence[Timing]) -> bool:
    """True if the last two bins agree: within 2 %, or their intervals meet."""
    if len(bins) < 2:
        return False
    before, after = bins[-2:]
    close = abs(after.seconds / before.seconds - 1) <= _SETTLED
    return close or (after.lo <= before.hi and before.lo <= after.hi)
