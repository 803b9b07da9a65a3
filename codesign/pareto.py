"""Pareto fronts of (latency, quality) pairs: latency is minimised, quality maximised.

Pure functions on pairs of floats; results are indices into what was given. A point with NaN or an
infinite coordinate is on no front and dominates nothing. `front_of` is the front of any number of
objectives.
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


def front_of(costs: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates where *all* coordinates are minimised.

    In lexicographic order; of equal points the first is kept. Each point is compared with those kept
    before it, since only what comes earlier in that order can dominate it.

    Args:
        costs: points of one dimension, such as (latency, loss, bytes).
    """
    order = sorted((i for i, p in enumerate(costs) if _is_finite(p)), key=lambda i: (*costs[i], i))
    if not order:
        return []
    points = np.array([costs[i] for i in order], dtype=np.float64)
    kept = np.empty_like(points)
    found: list[int] = []
    for i, point in zip(order, points, strict=True):
        if not (kept[: len(found)] <= point).all(axis=1).any():
            kept[len(found)] = point
            found.append(i)
    return found


def frontier(points: Sequence[tuple[float, float, float]], sized: bool) -> list[int]:
    """Indices of the (latency, quality, bytes) that no other dominates, by rising latency.

    Args:
        sized: bytes count; otherwise it is the front of latency and quality.
    """
    if not sized:
        return front([(latency, quality) for latency, quality, _ in points])
    return front_of([(latency, -quality, size) for latency, quality, size in points])


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


def spread(
    points: Sequence[Sequence[float]], n: int, taken: Sequence[Sequence[float]] = ()
) -> list[int]:
    """Choose ``n`` of the points, far from each other and from ``taken``, in order of choice.

    Farthest-point sampling (Gonzalez 1985) on all axes scaled to 0..1. Without ``taken`` the
    ends of the front come first: the fastest point and, of each further coordinate, the highest.

    Args:
        points: (latency, quality), or with further coordinates that are maximised.
    """
    valid = [i for i, p in enumerate(points) if _is_finite(p)]
    if n <= 0 or not valid:
        return []
    xy = np.array([points[i] for i in valid], dtype=np.float64)
    axes = xy.shape[1]
    known = np.array([p for p in taken if _is_finite(p)], dtype=np.float64).reshape(-1, axes)
    everything = np.concatenate([xy, known])
    low, span = everything.min(axis=0), np.ptp(everything, axis=0)
    span[span == 0] = 1.0
    xy, known = (xy - low) / span, (known - low) / span
    chosen: list[int] = []
    distance = np.full(len(xy), np.inf)
    for p in known:
        distance = np.minimum(distance, np.linalg.norm(xy - p, axis=1))
    if not len(known):
        costs = np.concatenate([xy[:, :1], -xy[:, 1:]], axis=1)
        # least of one coordinate; where equal, of the others in turn
        ends = (np.lexsort(np.roll(costs, -axis, axis=1).T[::-1])[0] for axis in range(axes))
        chosen = list(dict.fromkeys(int(i) for i in ends))[:n]
    for i in chosen:
        distance = np.minimum(distance, np.linalg.norm(xy - xy[i], axis=1))
    while len(chosen) < min(n, len(valid)):
        distance[chosen] = -1.0
        i = int(distance.argmax())
        chosen.append(i)
        distance = np.minimum(distance, np.linalg.norm(xy - xy[i], axis=1))
    return [valid[i] for i in chosen]


def _is_finite(p: Sequence[float]) -> bool:
    return all(map(math.isfinite, p))
