"""Pareto fronts of (latency, quality) pairs: latency is minimised, quality maximised.

Pure functions on pairs of floats; results are indices into what was given. A point with NaN or an
infinite coordinate is on no front and dominates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Pair = tuple[float, float]
"""(latency, quality), in any units."""


def dominates(a: Pair, b: Pair) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better."""
    return a[0] <= b[0] and a[1] >= b[1] and a != b and _is_finite(a)


def front(points: Sequence[Pair]) -> list[int]:
    """Indices of the points that no other dominates, by rising latency (and so rising quality).

    Of equal points the first is kept.
    """
    order = sorted(
        (i for i, p in enumerate(points) if _is_finite(p)),
        key=lambda i: (points[i][0], -points[i][1], i),
    )
    kept: list[int] = []
    best = -math.inf
    for i in order:
        if points[i][1] > best:
            kept.append(i)
            best = points[i][1]
    return kept


def hypervolume(points: Sequence[Pair], reference: Pair) -> float:
    """Area that the points dominate, up to ``reference``: (highest latency, lowest quality).

    In units of latency times quality; larger is better, 0 if no point beats the reference.
    """
    slow, poor = reference
    inside = [p for p in points if _is_finite(p) and p[0] < slow and p[1] > poor]
    area, floor = 0.0, poor
    for i in front(inside):
        latency, quality = inside[i]
        area += (slow - latency) * (quality - floor)
        floor = quality
    return area


def spread(points: Sequence[Pair], n: int, taken: Sequence[Pair] = ()) -> list[int]:
    """Choose ``n`` of the points, far from each other and from ``taken``, in order of choice.

    Farthest-point sampling (Gonzalez 1985) on both axes scaled to 0..1. Without ``taken`` the
    fastest point and the best one come first, so that both ends of a front are always there.
    """
    valid = [i for i, p in enumerate(points) if _is_finite(p)]
    if n <= 0 or not valid:
        return []
    xy = np.array([points[i] for i in valid], dtype=np.float64)
    known = np.array([p for p in taken if _is_finite(p)], dtype=np.float64).reshape(-1, 2)
    everything = np.concatenate([xy, known])
    low, span = everything.min(axis=0), np.ptp(everything, axis=0)
    span[span == 0] = 1.0
    xy, known = (xy - low) / span, (known - low) / span
    chosen: list[int] = []
    distance = np.full(len(xy), np.inf)
    for p in known:
        distance = np.minimum(distance, np.hypot(*(xy - p).T))
    if not len(known):
        fastest, best = (
            int(np.lexsort(k)[0]) for k in ((-xy[:, 1], xy[:, 0]), (xy[:, 0], -xy[:, 1]))
        )
        chosen = list(dict.fromkeys((fastest, best)))[:n]
    for i in chosen:
        distance = np.minimum(distance, np.hypot(*(xy - xy[i]).T))
    while len(chosen) < min(n, len(valid)):
        distance[chosen] = -1.0
        i = int(distance.argmax())
        chosen.append(i)
        distance = np.minimum(distance, np.hypot(*(xy - xy[i]).T))
    return [valid[i] for i in chosen]


def _is_finite(p: Pair) -> bool:
    return math.isfinite(p[0]) and math.isfinite(p[1])
