"""Signs that a measurement was disturbed: a trend, outliers, a clock or a temperature that changed.

They go into ``Measurement.meta["flags"]`` as sentences for people; nothing is corrected or left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from codesign.conditions.state import DeviceState
from codesign.measurement import median

_FEWEST = 6
_LONGEST = 200
_DOUBT = 0.01
_TREND = 0.03
_FAR = 5.0
_APART = 0.1
_MAD = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""

_CLOCK = 0.1
_DEGREES = 5.0


def flags(
    samples: Sequence[float],
    reference: Sequence[float] = (),
    before: DeviceState | None = None,
    after: DeviceState | None = None,
) -> tuple[str, ...]:
    """What is suspicious of a measurement, in sentences; empty if nothing is.

    Args:
        samples: seconds of each block, in the order taken.
        reference: seconds of the reference before each block and after the last, or nothing.
        before, after: the device at the start and the end, as far as known.
    """
    found = [*_trend(samples, reference), *_outliers(samples)]
    if before is not None and after is not None:
        found += [*_clocks(before, after), *_heat(before, after), *_power(before, after)]
    if after is not None and after.throttled:
        found.append("the device said that it was throttled at the end")
    return tuple(found)


def trend(values: Sequence[float]) -> float:
    """How much the last tenth is above the first, relative, if the values have a trend; else 0.

    Judged by the Mann-Kendall test with the normal approximation and ties (Kendall, Rank Correlation Methods,
    ch. 4). A slope would say little of a device that slows down once and stays slow. Fewer than 6 values show
    no trend.
    """
    kept = _thinned(values)
    n = len(kept)
    if n < _FEWEST:
        return 0.0
    signs = sum((later > sooner) - (later < sooner) for sooner, later in combinations(kept, 2))
    sizes = [kept.count(v) for v in set(kept)]
    ties = sum(t * (t - 1) * (2 * t + 5) for t in sizes)
    variance = (n * (n - 1) * (2 * n + 5) - ties) / 18
    if variance <= 0 or signs == 0:
        return 0.0
    z = (abs(signs) - 1) / math.sqrt(variance)
    if math.erfc(z / math.sqrt(2)) > _DOUBT:
        return 0.0
    end = max(_FEWEST // 2, n // 10)
    return median(kept[-end:]) / median(kept[:end]) - 1


def outliers(values: Sequence[float]) -> list[int]:
    """Indices of values far from the rest: over 5 robust standard deviations and 10 % of the median."""
    if len(values) < _FEWEST:
        return []
    centre = median(values)
    spread = _MAD * median([abs(v - centre) for v in values])
    limit = max(_FAR * spread, _APART * centre)
    return [i for i, v in enumerate(values) if abs(v - centre) > limit]


def _thinned(values: Sequence[float]) -> list[float]:
    """At most 200 values, each the median of its neighbours: the test takes all pairs."""
    if len(values) <= _LONGEST:
        return list(values)
    size = math.ceil(len(values) / _LONGEST)
    return [median(values[i : i + size]) for i in range(0, len(values), size)]


def _trend(samples: Sequence[float], reference: Sequence[float]) -> list[str]:
    change = trend(samples)
    paired = len(reference) == len(samples) + 1
    neighbours = zip(samples, reference, reference[1:], strict=False)
    own = trend([s / ((a + b) / 2) for s, a, b in neighbours]) if paired else 0.0
    if paired and abs(own) > _TREND:
        return [f"became {_word(own)} against the reference while it was timed"]
    if abs(change) <= _TREND:
        return []
    if paired:
        return [f"the device became {_word(change)} meanwhile; so did the reference, ratios hold"]
    return [f"became {_word(change)} while it was timed"]


def _word(change: float) -> str:
    return f"{abs(change):.0%} {'slower' if change > 0 else 'faster'}"


def _outliers(samples: Sequence[float]) -> list[str]:
    far = outliers(samples)
    if not far:
        return []
    worst = max((samples[i] for i in far), key=lambda v: abs(math.log(v / median(samples))))
    times = f"up to {worst / median(samples):.2g} times the median"
    return [f"{len(far)} of {len(samples)} blocks are outliers, {times}"]


def _clocks(before: DeviceState, after: DeviceState) -> list[str]:
    first, last = before.clock_shares(), after.clock_shares()
    changed = {
        cpu: (before.clocks_khz[cpu], after.clocks_khz[cpu])
        for cpu in first
        if cpu in last and abs(last[cpu] / first[cpu] - 1) > _CLOCK
    }
    if not changed:
        return []
    cpu = max(changed, key=lambda c: abs(math.log(max(changed[c][1], 1) / max(changed[c][0], 1))))
    old, new = changed[cpu]
    rest = f" and of {len(changed) - 1} more" if len(changed) > 1 else ""
    word = "fell" if new < old else "rose"
    return [
        f"the clock of processor {cpu}{rest} {word} from {old / 1e6:.2f} to {new / 1e6:.2f} GHz"
    ]


def _heat(before: DeviceState, after: DeviceState) -> list[str]:
    shared = before.temperatures_c.keys() & after.temperatures_c.keys()
    steps = {z: after.temperatures_c[z] - before.temperatures_c[z] for z in shared}
    zone = max(sorted(steps), key=lambda z: abs(steps[z]), default=None)
    if zone is None or abs(steps[zone]) < _DEGREES:
        return []
    old, new = before.temperatures_c[zone], after.temperatures_c[zone]
    return [f"temperature of {zone} went from {old:.0f} to {new:.0f} °C"]


def _power(before: DeviceState, after: DeviceState) -> list[str]:
    old = before.battery.status if before.battery else None
    new = after.battery.status if after.battery else None
    if old is None or new is None or old == new:
        return []
    return [f"the battery went from {old.lower()} to {new.lower()}"]
