"""Dynamic programming over groups: for every latency the least error.

The labels of the first g groups are all non-dominated (seconds, error) pairs; adding a group pairs
each of them with each option and keeps what is not dominated. Where there are more labels than
bins, each bin of latency keeps its best label *with its exact sum*, so that nothing is rounded: a
plan found has no more error than any plan that is faster by one bin per group and layer (the
multiple-choice knapsack by label setting; Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004,
chapter 11). Where groups shorten the sequence, a label also has the length so far, on which the
seconds of later options depend: labels of different lengths never dominate each other.

With a price of a byte, what is traded for error is no longer the seconds but the cost, seconds plus
price times bytes: of three objectives two stay, and the search is as exact as before (scalarisation;
Ehrgott, Multicriteria Optimization, 2005, chapter 3). `codesign.search.sizes` goes over the prices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.search.tables import Group, Layer, Option, Tables


@dataclass(frozen=True)
class Plan:
    """A point of the predicted frontier.

    Attributes:
        picks: for each group the option's index, -1 throughout a dropped layer.
        seconds: predicted latency, the sum over the tables.
        error: predicted output error, the sum over the tables.
        size: predicted bytes of its bundle, the sum over the tables.
    """

    picks: tuple[int, ...]
    seconds: float
    error: float
    size: float = 0.0


@dataclass
class _Labels:
    """Partial plans: seconds, error, size [n], picks [n, groups so far], number of the length [n]."""

    seconds: NDArray[np.float64]
    error: NDArray[np.float64]
    size: NDArray[np.float64]
    picks: NDArray[np.int16]
    length: NDArray[np.int16]

    def take(self, index: NDArray[np.intp]) -> _Labels:
        return _Labels(
            self.seconds[index],
            self.error[index],
            self.size[index],
            self.picks[index],
            self.length[index],
        )

    def with_option(self, option: Option, picks: NDArray[np.int16]) -> _Labels:
        """Every label with one more option; ``picks`` [n, groups of it] says which it is."""
        return _Labels(
            self.seconds + option.seconds,
            self.error + option.error,
            self.size + option.size,
            np.concatenate([self.picks, picks], axis=1),
            self.length,
        )

    def by_length(self) -> list[tuple[int, _Labels]]:
        """The labels of each length."""
        return [
            (int(n), self.take(np.nonzero(self.length == n)[0])) for n in np.unique(self.length)
        ]


@dataclass(frozen=True)
class _Rule:
    """Which labels are kept.

    Attributes:
        price: seconds that a byte costs.
        bins: labels kept at most.
        width: of a bin, in seconds of cost.
    """

    price: float
    bins: int
    width: float

    def thin(self, labels: _Labels) -> _Labels:
        """The best labels of each length."""
        return _joined([self.best(own) for _, own in labels.by_length()])

    def best(self, labels: _Labels) -> _Labels:
        """The non-dominated labels, by rising cost; above ``bins`` of them one per bin."""
        cost = labels.seconds + self.price * labels.size if self.price else labels.seconds
        order = np.lexsort((labels.error, cost))
        error = labels.error[order]
        before = np.concatenate([[np.inf], np.minimum.accumulate(error)[:-1]])
        order = order[error < before]
        if len(order) > self.bins:
            # error falls along the order, so the last label of a bin is its best
            cell = np.floor(cost[order] / self.width)
            order = order[np.concatenate([cell[1:] != cell[:-1], [True]])]
        return labels.take(order)


def solve(
    tables: Tables,
    *,
    bins: int = 2000,
    max_seconds: float | None = None,
    max_error: float | None = None,
    price: float = 0.0,
) -> list[Plan]:
    """The additive frontier, cheapest first: each plan has less error than all cheaper ones.

    Args:
        tables: vetoed options are never taken.
        bins: labels kept at most; sets the resolution, not the exactness of a sum.
        max_seconds: leave out slower plans.
        max_error: leave out plans with more error.
        price: seconds that a byte of the bundle costs; at 0 the cheapest plan is the fastest.
    """
    rule = _Rule(price, bins, _dearest(tables, price) / bins)
    none = np.zeros((1, 0), dtype=np.int16)
    full = np.zeros(1, dtype=np.int16)
    start = np.array([tables.base_seconds]), np.zeros(1), np.array([tables.base_size])
    labels = _Labels(*start, none, full)
    for layer in tables.layers:
        labels = rule.thin(_with_layer(labels, layer, rule))
    labels = rule.best(labels)
    rows = zip(labels.picks, labels.seconds, labels.error, labels.size, strict=True)
    plans = [
        Plan(tuple(int(i) for i in picks), float(seconds), float(error), float(size))
        for picks, seconds, error, size in rows
    ]
    return [
        p
        for p in plans
        if (max_seconds is None or p.seconds <= max_seconds)
        and (max_error is None or p.error <= max_error)
    ]


def _with_layer(labels: _Labels, layer: Layer, rule: _Rule) -> _Labels:
    """All ways to treat one more layer."""
    kept = labels
    for group in layer.groups:
        kept = rule.thin(_with_group(kept, group, rule))
    base = np.array([layer.base(int(n)) for n in kept.length])
    kept = replace(kept, seconds=kept.seconds + base, size=kept.size + layer.base_size)
    if layer.drop is None or layer.drop.veto or not layer.groups:
        return kept
    gone = np.full((len(labels.seconds), len(layer.groups)), -1, dtype=np.int16)
    return _joined([kept, labels.with_option(layer.drop, gone)])


def _with_group(labels: _Labels, group: Group, rule: _Rule) -> _Labels:
    """Every label with every option of the group that is worth taking at its length."""
    parts = []
    for length, own in labels.by_length():
        for i, taken in _worth_taking(group, length, rule.price):
            pick = np.full((len(own.seconds), 1), i, dtype=np.int16)
            goes_on = np.full_like(own.length, group.goes_on(i, length))
            parts.append(replace(own.with_option(taken, pick), length=goes_on))
    return _joined(parts)


def _worth_taking(group: Group, length: int, price: float) -> Iterator[tuple[int, Option]]:
    """(index, option) of what is not vetoed and can be at a length, without what another dominates.

    No best plan has an option for which there is one in the group of no more cost and no more error;
    where options shorten the sequence, each leads elsewhere, and none dominates.
    """
    able = [(i, group.taken(i, length)) for i, o in enumerate(group.options) if not o.veto]
    able = [(i, o) for i, o in able if np.isfinite(o.seconds)]
    if group.shortens:
        yield from able
        return
    least = np.inf
    for i, option in sorted(
        able, key=lambda pair: (pair[1].seconds + price * pair[1].size, pair[1].error, pair[0])
    ):
        if option.error < least:
            least = option.error
            yield i, option


def _joined(parts: Sequence[_Labels]) -> _Labels:
    return _Labels(
        np.concatenate([p.seconds for p in parts]),
        np.concatenate([p.error for p in parts]),
        np.concatenate([p.size for p in parts]),
        np.concatenate([p.picks for p in parts]),
        np.concatenate([p.length for p in parts]),
    )


def _dearest(tables: Tables, price: float) -> float:
    """A cost that no plan exceeds; the bins divide it."""
    total = tables.base_seconds + price * tables.base_size
    for layer in tables.layers:
        total += layer.base_seconds + price * layer.base_size
        total += sum(max(o.seconds + price * o.size for o in g.options) for g in layer.groups)
    return total or 1.0
