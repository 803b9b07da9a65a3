"""What measured candidates teach: corrected sensitivities, and what error costs in quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, least_squares

from codesign.search.tables import Option, Tables

SUPPORTED = 1.5
"""Times the largest error seen, up to which a loss is expected without hoping: a fifth more than was lost there."""

_LEAST, _MOST = 0.1, 10.0


@dataclass(frozen=True)
class Observation:
    """A candidate that was evaluated for real.

    Attributes:
        picks: as in `Plan`.
        error: its measured output error, in the unit of `Option.error`; None if only the quality is
            known.
        loss: its measured relative loss of the metric (0.01 is one percent; negative is a gain).
    """

    picks: tuple[int, ...]
    error: float | None
    loss: float


@dataclass(frozen=True)
class Correction:
    """What is believed after some observations.

    Attributes:
        factors: (group, family) -> factor on the sensitivity; 1.0 where absent.
        errors, losses: corners of the monotone map from output error to loss, both rising.
        count: observations with an output error.
        reach: largest corrected error whose loss was observed; 0: none was.
    """

    factors: Mapping[tuple[str, str], float]
    errors: tuple[float, ...] = (0.0,)
    losses: tuple[float, ...] = (0.0,)
    count: int = 0
    reach: float = 0.0

    def apply(self, tables: Tables) -> Tables:
        """The tables with corrected errors."""

        def corrected(group: str, option: Option) -> Option:
            factor = self.factors.get((group, option.family), 1.0)
            return replace(option, error=option.error * factor)

        return tables.mapped(corrected)

    def loss(self, error: float) -> float:
        """Expected relative loss at a corrected output error.

        Linear between the corners, and growing with the root of the error beyond the last one; before
        anything was observed the error itself. The root is hopeful: metrics saturate, and what is
        believed to be hopeless is never tried, while a hope is corrected by the next round
        (`propose` takes few hopes into one).
        """
        last_error, last_loss = self.errors[-1], self.losses[-1]
        if error <= last_error:
            return float(np.interp(error, self.errors, self.losses))
        if last_error <= 0:
            return last_loss + error
        return last_loss + max(last_loss, 0.0) * (math.sqrt(error / last_error) - 1)

    def hopes(self, error: float) -> bool:
        """Whether the loss expected at a corrected error is a hope: something was observed, but nothing near it."""
        return error > SUPPORTED * self.reach > 0.0

    def max_error(self, loss: float) -> float:
        """The largest output error whose expected loss is at most ``loss``; may be infinite."""
        if self.loss(0.0) > loss:
            return 0.0
        low, high = 0.0, 1.0
        while self.loss(high) <= loss:
            if high > 1e6:
                return float("inf")
            low, high = high, high * 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.loss(middle) <= loss else (low, middle)
        return low


def learn(tables: Tables, observations: Sequence[Observation]) -> Correction:
    """Correct the sensitivities and the map to quality by what was measured.

    Args:
        tables: as first measured, without any correction: always learn from the beginning.
    """
    return learn_together([tables], [observations])[0]


def learn_together(
    tables: Sequence[Tables], observations: Sequence[Sequence[Observation]]
) -> list[Correction]:
    """A correction for each of several tables of one model, which have their groups' names in common.

    Factors of the same group and family are close to each other; the map from output error to quality
    is one, for it knows nothing of what caused the error.

    Args:
        tables: as first measured.
        observations: of candidates of each of them.
    """
    errors = [[o for o in seen if o.error is not None] for seen in observations]
    factors = _factors(tables, errors)
    count = sum(len(seen) for seen in errors)
    # the search knows plans by their predicted error, so that is what the map starts from
    x: list[float] = []
    for own, known, seen in zip(tables, factors, observations, strict=True):
        corrected = Correction(known).apply(own)
        x += [corrected.totals(o.picks)[1] for o in seen]
    corners = _monotone(x, [o.loss for seen in observations for o in seen])
    reach = max(x, default=0.0)
    return [Correction(known, *corners, count, reach) for known in factors]


def _factors(
    tables: Sequence[Tables],
    observations: Sequence[Sequence[Observation]],
    shared_prior: float = 0.7,
    group_prior: float = 0.4,
    noise: float = 0.1,
) -> list[dict[tuple[str, str], float]]:
    """Least squares for log factor = all + family + group + own on the log of the output error.

    A few candidates cannot tell tens of factors apart, so each is built from a share common to
    all, one of its family, one of its group, and where there are several tables one of its family in its
    own, with normal priors around zero (standard deviations ``shared_prior``, ``shared_prior``,
    ``group_prior``, ``group_prior``, in logarithms) against a relative noise of ``noise`` on each
    observation: what is seen of one group moves its family a little too.
    """
    rows = [(i, _contributions(tables[i], o), o) for i, own in enumerate(observations) for o in own]
    seen = [(i, row, o.error) for i, row, o in rows if row and o.error]
    keys = sorted({key for _, row, _ in seen for key in row})
    if not keys:
        return [{} for _ in tables]
    families = sorted({family for _, family in keys})
    columns = [(i, key) for i in range(len(tables)) for key in keys]
    owned = len(families) * len(tables) if len(tables) > 1 else 0
    parts = np.zeros((len(columns), 1 + len(families) + len(keys) + owned))
    for at, (i, key) in enumerate(columns):
        family = families.index(key[1])
        parts[at, [0, 1 + family, 1 + len(families) + keys.index(key)]] = 1.0
        if owned:
            parts[at, 1 + len(families) + len(keys) + i * len(families) + family] = 1.0
    prior = np.full(parts.shape[1], 1.0 / shared_prior)
    prior[1 + len(families) :] = 1.0 / group_prior
    predicted = np.array([[row.get(k, 0.0) * (i == j) for j, k in columns] for i, row, _ in seen])
    measured = np.log([error for _, _, error in seen])

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = predicted @ np.exp(parts @ x)
        return np.concatenate([(np.log(sums) - measured) / noise, prior * x])

    def jacobian(x: NDArray[np.float64]) -> NDArray[np.float64]:
        terms = predicted * np.exp(parts @ x)
        shares = terms / terms.sum(axis=1, keepdims=True)
        return np.concatenate([shares @ parts / noise, np.diag(prior)])

    x = least_squares(residuals, np.zeros(parts.shape[1]), jacobian).x
    factors = np.clip(np.exp(parts @ x), _LEAST, _MOST)
    found: list[dict[tuple[str, str], float]] = [{} for _ in tables]
    for (i, key), factor in zip(columns, factors, strict=True):
        found[i][key] = float(factor)
    return found


def _contributions(tables: Tables, observation: Observation) -> dict[tuple[str, str], float]:
    """(group, family) -> predicted error, without those that cause none."""
    taken = tables.chosen(observation.picks)
    return {(name, option.family): option.error for name, option in taken if option.error > 0}


def _monotone(
    errors: Sequence[float], losses: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Corners of the isotonic regression of loss on error, through (0, 0).

    Each block of equal fitted values gives one corner, at its mean error, so that the map between
    corners rises instead of jumping.
    """
    order = np.argsort(errors, kind="stable")
    x = np.asarray(errors, dtype=np.float64)[order]
    keep = x > 0
    x = x[keep]
    y = np.asarray(losses, dtype=np.float64)[order][keep]
    if not len(x):
        return (0.0,), (0.0,)
    fitted = np.asarray(isotonic_regression(y).x)
    corners: list[tuple[float, float]] = [(0.0, min(0.0, float(fitted[0])))]
    for value in np.unique(fitted):
        corners.append((float(_mean(x[fitted == value])), float(value)))
    return tuple(c[0] for c in corners), tuple(c[1] for c in corners)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())
