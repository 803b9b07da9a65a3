"""Energy of one inference from what a meter read at rest and during a run.

Every source gives the same readings, a counter of joules or a power in watts, so one calculation serves all: the
counter's difference, or else the power integrated by trapezoids, less what the device takes at rest. Where that
cannot be told there is no number, and the reason stands in its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

from codesign.schema import dump

FEWEST_STEPS = 10
"""A counter that moved by fewer of its steps knows the energy to no better than about 20 %."""

FEWEST_READINGS = 5
"""Power that was looked at less often may have been looked at between the peaks."""


_CHUNKS = 4


@dataclass(frozen=True)
class Reading:
    """What a meter shows at a moment.

    Attributes:
        time: seconds.
        joules: taken since some moment in the past; None if there is no counter.
        watts: taken now; None if that is not told.
        resolution_joules: smallest step of the counter; None if it has to be found from the readings.
    """

    time: float
    joules: float | None = None
    watts: float | None = None
    resolution_joules: float | None = None


@dataclass(frozen=True)
class Energy:
    """Energy of one inference, or why there is none.

    Attributes:
        joules: of one inference above what the device takes at rest; None if not known.
        uncertainty_joules: of it, from the counter's resolution and twice the standard error of the power at rest
            and at work; None if nothing tells.
        rest_watts: what was subtracted; None if the device was not watched at rest: the number is gross.
        how: the source and the way it was computed.
        reason: why there is no number; None if there is one.
    """

    joules: float | None = None
    uncertainty_joules: float | None = None
    rest_watts: float | None = None
    how: str = ""
    reason: str | None = None

    @classmethod
    def unavailable(cls, reason: str, how: str = "") -> Energy:
        return cls(how=how, reason=f"not available: {reason}")

    def to_json(self) -> dict[str, Any]:
        return dict(dump(self))

    def __str__(self) -> str:
        if self.joules is None:
            return f"energy: {self.reason}"
        text = f"energy: {self.joules * 1e3:.3g} mJ per inference"
        if self.uncertainty_joules is not None:
            text += f" (within {self.uncertainty_joules * 1e3:.2g})"
        rest = "gross: at rest not known" if self.rest_watts is None else (
            f"{self.rest_watts:.2f} W at rest subtracted"
        )  # fmt: skip
        return f"{text}; {self.how}, {rest}"


def energy(rest: Sequence[Reading], run: Sequence[Reading], calls: int, source: str) -> Energy:
    """Energy of one of ``calls`` inferences.

    Args:
        rest: readings while the device did nothing of ours; may be empty.
        run: from the start to the end of the run.
        source: name of the meter.
    """
    seconds = run[-1].time - run[0].time if len(run) > 1 else 0.0
    if calls < 1 or seconds <= 0:
        return Energy.unavailable("nothing ran between two readings", source)
    counted, step = _counted(run), _step([rest, run])
    too_coarse = ""
    if counted is not None and step is not None and counted >= FEWEST_STEPS * step:
        gross, how, doubt = counted, f"{source}, counter", 2 * step
        run_error = _error(_chunks(run, step))
    else:
        if counted is not None:
            size = "never moved" if step is None else f"moves by {step:.3g} J"
            too_coarse = f"the counter of {source} {size}, too coarse for a run of {seconds:.1f} s"
        integrated = _integrated(run)
        if integrated is None:
            few = f"{source} told its power fewer than {FEWEST_READINGS} times"
            return Energy.unavailable(too_coarse or few, source)
        gross, how, doubt = integrated, f"{source}, power integrated", 0.0
        run_error = _error(_told(run))
    watts, rest_error = _watts(rest)
    net = gross - (watts or 0.0) * seconds
    doubt += 2 * seconds * math.hypot(run_error, rest_error)
    if net <= doubt:
        reason = f"the run differs by {net:.3g} J from rest, and chance alone by {doubt:.2g} J"
        return Energy.unavailable(reason, how)
    return Energy(net / calls, doubt / calls if doubt else None, watts, how)


def _counted(readings: Sequence[Reading]) -> float | None:
    """Joules by the counter; None without one."""
    first, last = readings[0].joules, readings[-1].joules
    return None if first is None or last is None else last - first


def _step(series: Sequence[Sequence[Reading]]) -> float | None:
    """The counter's step as told, or the smallest that it was seen to make: no smaller one can be trusted."""
    told = [r.resolution_joules for readings in series for r in readings if r.resolution_joules]
    if told:
        return max(told)
    steps = [
        b.joules - a.joules
        for readings in series
        for a, b in pairwise(readings)
        if a.joules is not None and b.joules is not None and b.joules > a.joules
    ]
    return min(steps, default=None)


def _integrated(readings: Sequence[Reading]) -> float | None:
    told = [(r.time, r.watts) for r in readings if r.watts is not None]
    if len(told) < FEWEST_READINGS:
        return None
    joules = sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(told))
    covered, whole = told[-1][0] - told[0][0], readings[-1].time - readings[0].time
    return joules * whole / covered if covered > whole / 2 else None


def _watts(rest: Sequence[Reading]) -> tuple[float | None, float]:
    """Power at rest and its standard error: by the counter if it moved enough, else the mean of what was told."""
    if len(rest) < 2 or rest[-1].time <= rest[0].time:
        return None, 0.0
    counted, step = _counted(rest), _step([rest])
    if counted is not None and step is not None and counted >= FEWEST_STEPS * step:
        return counted / (rest[-1].time - rest[0].time), _error(_chunks(rest, step))
    told = _told(rest)
    return (mean(told), _error(told)) if len(told) >= FEWEST_READINGS else (None, 0.0)


def _told(readings: Sequence[Reading]) -> list[float]:
    return [r.watts for r in readings if r.watts is not None]


def _chunks(readings: Sequence[Reading], step: float) -> list[float]:
    """Power by the counter in parts of the time; none if it moves too little in one of them."""
    ends = [readings[i * (len(readings) - 1) // _CHUNKS] for i in range(_CHUNKS + 1)]
    pairs = [(b.joules - a.joules, b.time - a.time) for a, b in pairwise(ends)
             if a.joules is not None and b.joules is not None]  # fmt: skip
    if len(pairs) < _CHUNKS or any(j < FEWEST_STEPS * step or t <= 0 for j, t in pairs):
        return []
    return [joules / seconds for joules, seconds in pairs]


def _error(powers: Sequence[float]) -> float:
    """Standard error of their mean: what other programs and chance do to it."""
    return stdev(powers) / math.sqrt(len(powers)) if len(powers) > 1 else 0.0
