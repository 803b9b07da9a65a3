"""Which candidates to build next."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from codesign.pareto import front_of, spread
from codesign.search.correct import Correction
from codesign.search.dp import Plan, solve
from codesign.search.sizes import solve_sized
from codesign.search.tables import Tables

HOPES = 1
"""Plans of a round that lie far beyond the largest error seen: a hope that fails costs a measurement, not a round."""


@dataclass(frozen=True)
class Limits:
    """Goals in the units of the search; None is no limit.

    Attributes:
        max_seconds: end-to-end latency, before calibration.
        max_loss: relative loss of the metric.
        worst_loss: plans expected to lose more are never worth building.
        focus_loss: what to aim at first where ``max_loss`` sets no goal; excludes nothing.
        sized: size is an objective beside latency and error.
        max_size: bytes of a bundle; larger plans are not proposed. Only where size is an objective.
    """

    max_seconds: float | None = None
    max_loss: float | None = None
    worst_loss: float = 0.5
    focus_loss: float | None = None
    sized: bool = False
    max_size: float | None = None

    @property
    def aim(self) -> float | None:
        """The loss within which the fastest plan is wanted most."""
        return self.focus_loss if self.max_loss is None else self.max_loss


def propose(
    tables: Tables,
    correction: Correction,
    measured: Sequence[tuple[int, ...]],
    k: int,
    *,
    limits: Limits | None = None,
    refused: Collection[str] = (),
    hopes: int = HOPES,
    bins: int = 2000,
) -> list[Plan]:
    """The next ``k`` plans to build: first what the goals ask for, then where nothing is known.

    What a plan loses far beyond the largest error seen is a hope (`Correction.hopes`), and few of the ``k``
    are hopes; the others lie where losses were seen. Plans come from the corrected frontier, spread over log
    latency, expected loss and, where it is asked for, log size, away from what is measured. Fewer than ``k``
    come back when the frontier holds no more. Where no plan worth building is as small as asked for, only
    the smallest is proposed.

    Args:
        tables: corrected and vetoed.
        correction: gives the expected loss.
        measured: picks of what was built already; its candidates are never proposed again.
        refused: keys of candidates that failed to build.
        hopes: most plans that may be hopes. While all that was seen keeps the loss aimed at, what is wanted lies
            beyond it, and so may every plan.
    """
    several = propose_among(
        [tables], correction, [measured], k, limits=limits, refused=refused, hopes=hopes, bins=bins
    )
    return [plan for _, plan in several]


def propose_among(
    tables: Sequence[Tables],
    correction: Correction,
    measured: Sequence[Sequence[tuple[int, ...]]],
    k: int,
    *,
    limits: Limits | None = None,
    refused: Collection[str] = (),
    hopes: int = HOPES,
    bins: int = 2000,
) -> list[tuple[int, Plan]]:
    """``propose`` over several tables of one model, whose plans compete: (number of the tables, plan).

    Args:
        tables: corrected and vetoed; a plan that another one's plan beats is not proposed.
        correction: gives the expected loss, whatever the tables.
        measured: picks of what was built already, for each of the tables.
    """
    limits = limits or Limits()
    known = [
        (i, Plan(picks, *tables[i].totals(picks), tables[i].size(picks)))
        for i, own in enumerate(measured)
        for picks in own
    ]
    done = {tables[i].candidate(plan.picks).key for i, plan in known} | set(refused)
    frontier = _new(tables, _frontier(tables, correction, limits, bins), done)
    if not frontier or k <= 0:
        return []
    allowed = [p for p in frontier if _useful(p[1], correction, limits)]
    if limits.aim is not None and correction.loss(correction.reach) < limits.aim:
        hopes = k
    first = _with_few_hopes(_at_goals(frontier, correction, limits), correction, hopes)[:k]
    found = first + _far(allowed, k - len(first), [*known, *first], correction, limits)
    found = _with_few_hopes(found, correction, hopes)
    supported = [p for p in allowed if not correction.hopes(p[1].error)]
    return found + _far(supported, k - len(found), [*known, *found], correction, limits)


def _frontier(
    tables: Sequence[Tables], correction: Correction, limits: Limits, bins: int
) -> list[tuple[int, Plan]]:
    """The plans of all tables that no other one beats, and that are small enough, fastest first."""
    plans = [
        (i, plan)
        for i, own in enumerate(tables)
        for plan in _solved(own, correction, limits, bins)
        if plan.seconds > 0  # nothing is left of a model that takes no time
    ]
    if limits.max_size is not None:
        most = limits.max_size
        worth = [p for p in plans if _useful(p[1], correction, limits)] or plans
        small = [p for p in worth if p[1].size <= most]
        plans = small or [min(worth, key=lambda p: p[1].size)]
    costs = [(p.seconds, p.error, p.size if limits.sized else 0.0) for _, p in plans]
    return [plans[i] for i in front_of(costs)]


def _solved(tables: Tables, correction: Correction, limits: Limits, bins: int) -> list[Plan]:
    """The predicted frontier of one of the tables."""
    if not limits.sized:
        return solve(tables, bins=bins)
    error = None if limits.aim is None else correction.max_error(limits.aim)
    return solve_sized(tables, bins=bins, max_error=error, max_size=limits.max_size)


def _new(
    tables: Sequence[Tables], plans: Sequence[tuple[int, Plan]], done: set[str]
) -> list[tuple[int, Plan]]:
    """Plans whose candidates are not done, each candidate once."""
    fresh = []
    for i, plan in plans:
        key = tables[i].candidate(plan.picks).key
        if key not in done:
            done.add(key)
            fresh.append((i, plan))
    return fresh


def _at_goals(
    plans: Sequence[tuple[int, Plan]], correction: Correction, limits: Limits
) -> list[tuple[int, Plan]]:
    """The fastest plan within the loss, the best within the latency, the smallest within the loss."""
    found: list[tuple[int, Plan]] = []
    aim = limits.aim
    good = [p for p in plans if aim is not None and correction.loss(p[1].error) <= aim]
    found += good[:1]
    if limits.max_seconds is not None:
        within = [p for p in plans if p[1].seconds <= limits.max_seconds]
        found += [min(within, key=lambda p: p[1].error)] if within else []
    if limits.sized and good:
        found.append(min(good, key=lambda p: p[1].size))
    return list(dict.fromkeys(found))


def _with_few_hopes(
    plans: Sequence[tuple[int, Plan]], correction: Correction, most: int
) -> list[tuple[int, Plan]]:
    """The plans without the hopes among them that come after the first ``most``."""
    too_many = [p for p in plans if correction.hopes(p[1].error)][most:]
    return [p for p in plans if p not in too_many]


def _far(
    plans: Sequence[tuple[int, Plan]],
    n: int,
    known: Sequence[tuple[int, Plan]],
    correction: Correction,
    limits: Limits,
) -> list[tuple[int, Plan]]:
    """``n`` of the plans, far from each other and from the known ones."""
    left = [p for p in plans if p not in known]
    taken = [_place(plan, correction, limits) for _, plan in known]
    return [left[i] for i in spread([_place(p, correction, limits) for _, p in left], n, taken)]


def _useful(plan: Plan, correction: Correction, limits: Limits, slack: float = 2.0) -> bool:
    """Whether a plan is near enough to the goals to teach something about them."""
    loss = correction.loss(plan.error)
    slow = limits.max_seconds is not None and plan.seconds > slack * limits.max_seconds
    lossy = limits.max_loss is not None and loss > slack * limits.max_loss + 0.02
    return not (slow or lossy) and loss <= limits.worst_loss


def _place(plan: Plan, correction: Correction, limits: Limits) -> tuple[float, ...]:
    """Where a plan lies: log latency, expected quality relative to the dense model, and smallness."""
    place = math.log(plan.seconds), -min(correction.loss(plan.error), 1.0)
    return (*place, -math.log(max(plan.size, 1.0))) if limits.sized else place
