"""Which units of a group to remove: greedy Optimal Brain Surgeon over all of its consumers.

With P the inverse of a consumer's moments and W its weight, removing unit G costs it
``tr(W_G inv(P_GG) W_G^T)`` and takes P to ``P - P[:,G] inv(P_GG) P[G,:]`` (Hassibi and Stork 1993). The cost
of a unit is the sum over the consumers, each of which keeps a P of its own: a group of 2048 units with
three consumers needs three matrices, not one of nine times the size.

As in `passes.solve.removal`, a few per cent go at once: exact greedy removal runs among the cheapest,
where it sees how units stand in for one another, and the matrices are downdated once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.channels.consumers import Consumer
from passes.channels.graph import Positions
from passes.solve.gram import Array
from passes.solve.removal import CANDIDATES, CHUNK


def unit_costs(consumers: Sequence[Consumer]) -> NDArray[np.float64]:
    """What all consumers together lose [units] if one unit goes and what is left makes up for it."""
    return _costs([_Part.of(c) for c in consumers])


def kept_units(consumers: Sequence[Consumer], keeps: Sequence[int]) -> list[Positions]:
    """Ascending numbers of the units left for each count of ``keeps``, each from 1 to all units."""
    parts = [_Part.of(c) for c in consumers]
    left: Positions = np.arange(len(consumers[0].owned))
    found: dict[int, Positions] = {}
    for keep in sorted(set(keeps), reverse=True):
        while len(left) > keep:
            count = min(len(left) - keep, max(1, int(CHUNK * len(left))))
            gone = _cheapest(parts, count)
            parts = [part.without(gone) for part in parts]
            left = np.delete(left, gone)
        found[keep] = left
    return [found[keep] for keep in keeps]


@dataclass(frozen=True)
class _Part:
    """One consumer over the units that are left.

    Attributes:
        weight: [O, units * n], optimal for what is left.
        inverse: [units * n, units * n], P.
        features: n, of a unit.
    """

    weight: Array
    inverse: Array
    features: int

    @classmethod
    def of(cls, consumer: Consumer) -> _Part:
        weight, moments = consumer.on_units()
        return cls(weight, np.linalg.inv(moments), consumer.owned.shape[1])

    def costs(self) -> NDArray[np.float64]:
        """What it loses [units] without each unit."""
        n = self.features
        if n == 1:
            return np.square(self.weight).sum(axis=0) / np.diagonal(self.inverse)
        units = len(self.inverse) // n
        own = np.einsum("uiuj->uij", self.inverse.reshape(units, n, units, n))
        parts = self.weight.reshape(-1, units, n).transpose(1, 2, 0)
        return np.einsum("uij,uij->u", np.linalg.inv(own), parts @ parts.swapaxes(1, 2))

    def among(self, units: Positions) -> _Part:
        """As if there were these units only, the others staying as they are."""
        index = self._inputs(units)
        return _Part(self.weight[:, index], self.inverse[np.ix_(index, index)], self.features)

    def without(self, units: Positions) -> _Part:
        """Units removed, and the rest optimal without them."""
        gone = self._inputs(units)
        left = np.delete(np.arange(len(self.inverse)), gone)
        rows = self.inverse[np.ix_(gone, left)]
        solved = np.linalg.solve(self.inverse[np.ix_(gone, gone)], rows)
        weight = self.weight[:, left] - self.weight[:, gone] @ solved
        return _Part(weight, self.inverse[np.ix_(left, left)] - rows.T @ solved, self.features)

    def _inputs(self, units: Positions) -> Positions:
        return (units[:, None] * self.features + np.arange(self.features)).reshape(-1)


def _costs(parts: Sequence[_Part]) -> NDArray[np.float64]:
    return np.sum([part.costs() for part in parts], axis=0)


def _cheapest(parts: Sequence[_Part], count: int) -> Positions:
    """Positions of the units to remove: exact greedy among the cheapest candidates."""
    order = np.argsort(_costs(parts), kind="stable")
    left = order[: CANDIDATES * count + 8] if count > 1 else order[:1]
    parts = [part.among(left) for part in parts]
    picked: list[int] = []
    while len(picked) < count:
        best = int(_costs(parts).argmin())
        picked.append(int(left[best]))
        left = np.delete(left, best)
        if len(picked) < count:
            parts = [part.without(np.array([best])) for part in parts]
    return np.array(picked, dtype=np.intp)
