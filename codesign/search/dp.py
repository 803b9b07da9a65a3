"""Dynamic programming over groups: for every latency the least error.

The labels of the first g groups are all non-dominated (seconds, error) pairs; adding a group pairs
each of them with each option and keeps what is not dominated. Where there are more labels than
bins, each bin of latency keeps its best label *with its exact sum*, so that nothing is rounded: a
plan found has no more error than any plan that is faster by one bin per group and layer (the
multiple-choice knapsack by label setting; Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004,
chapter 11). Where groups shorten the sequence, a label also has the length so far, on which the
seconds of later options depend: labels of different lengths never dominate each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.search.tables import Group, Layer, Tables


@dataclass(frozen=True)
class Plan:
    """A point of the predicted frontier.

    Attributes:
        picks: for each group the option's index, -1 throughout a dropped layer.
        seconds: predicted latency, the sum over the tables.
        error: predicted output error, the sum over the tables.
    """

    picks: tuple[int, ...]
    seconds: float
    error: float


@dataclass
class _Labels:
    """Partial plans: seconds [n], error [n], picks [n, groups so far], number of the length [n]."""

    seconds: NDArray[np.float64]
    error: NDArray[np.float64]
    picks: NDArray[np.int16]
    length: NDArray[np.int16]

    def take(self, index: NDArray[np.intp]) -> _Labels:
        return _Labels(
            self.seconds[index], self.error[index], self.picks[index], self.length[index]
        )

    def by_length(self) -> list[tuple[int, _Labels]]:
        """The labels of each length."""
        return [
            (int(n), self.take(np.nonzero(self.length == n)[0])) for n in np.unique(self.length)
        ]


def solve(
    tables: Tables,
    *,
    bins: int = 2000,
    max_seconds: float | None = None,
    max_error: float | None = None,
) -> list[Plan]:
    """The additive frontier, fastest first: each plan has less error than all faster ones.

    Args:
        tables: vetoed options are never taken.
        bins: labels kept at most; sets the resolution, not the exactness of a sum.
        max_seconds: leave out slower plans.
        max_error: leave out plans with more error.
    """
    width = _slowest(tables) / bins
    none = np.zeros((1, 0), dtype=np.int16)
    full = np.zeros(1, dtype=np.int16)
    labels = _Labels(np.array([tables.base_seconds]), np.zeros(1), none, full)
    for layer in tables.layers:
        labels = _thin(_with_layer(labels, layer, width, bins), width, bins)
    labels = _best(labels, width, bins)
    plans = [
        Plan(tuple(int(i) for i in picks), float(seconds), float(error))
        for seconds, error, picks in zip(labels.seconds, labels.error, labels.picks, strict=True)
    ]
    return [
        p
        for p in plans
        if (max_seconds is None or p.seconds <= max_seconds)
        and (max_error is None or p.error <= max_error)
    ]


def _with_layer(labels: _Labels, layer: Layer, width: float, bins: int) -> _Labels:
    """All ways to treat one more layer."""
    kept = labels
    for group in layer.groups:
        kept = _thin(_with_group(kept, group), width, bins)
    base = np.array([layer.base(int(n)) for n in kept.length])
    kept = replace(kept, seconds=kept.seconds + base)
    if layer.drop is None or layer.drop.veto or not layer.groups:
        return kept
    gone = np.full((len(labels.seconds), len(layer.groups)), -1, dtype=np.int16)
    without = _Labels(
        labels.seconds + layer.drop.seconds,
        labels.error + layer.drop.error,
        np.concatenate([labels.picks, gone], axis=1),
        labels.length,
    )
    return _joined([kept, without])


def _with_group(labels: _Labels, group: Group) -> _Labels:
    """Every label with every option of the group that is not vetoed and can be at its length."""
    parts = []
    for length, own in labels.by_length():
        for i, option in enumerate(group.options):
            taken = group.taken(i, length)
            if option.veto or not np.isfinite(taken.seconds):
                continue
            pick = np.full((len(own.seconds), 1), i, dtype=np.int16)
            parts.append(
                _Labels(
                    own.seconds + taken.seconds,
                    own.error + taken.error,
                    np.concatenate([own.picks, pick], axis=1),
                    np.full_like(own.length, group.goes_on(i, length)),
                )
            )
    return _joined(parts)


def _joined(parts: Sequence[_Labels]) -> _Labels:
    return _Labels(
        np.concatenate([p.seconds for p in parts]),
        np.concatenate([p.error for p in parts]),
        np.concatenate([p.picks for p in parts]),
        np.concatenate([p.length for p in parts]),
    )


def _thin(labels: _Labels, width: float, bins: int) -> _Labels:
    """The best labels of each length."""
    return _joined([_best(own, width, bins) for _, own in labels.by_length()])


def _best(labels: _Labels, width: float, bins: int) -> _Labels:
    """The non-dominated labels, by rising seconds; above ``bins`` of them one per bin."""
    order = np.lexsort((labels.error, labels.seconds))
    error = labels.error[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(error)[:-1]])
    order = order[error < before]
    if len(order) > bins:
        # error falls along the order, so the last label of a bin is its best
        cell = np.floor(labels.seconds[order] / width)
        order = order[np.concatenate([cell[1:] != cell[:-1], [True]])]
    return labels.take(order)


def _slowest(tables: Tables) -> float:
    """Seconds that no plan exceeds; the bins divide them."""
    total = tables.base_seconds
    for layer in tables.layers:
        total += layer.base_seconds + sum(max(o.seconds for o in g.options) for g in layer.groups)
    return total or 1.0
