"""Which candidates to build next."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from codesign.pareto import spread
from codesign.search.correct import Correction
from codesign.search.dp import Plan, solve
from codesign.search.tables import Tables


@dataclass(frozen=True)
class Limits:
    """Goals in the units of the search; None is no limit.

    Attributes:
        max_seconds: end-to-end latency, before calibration.
        max_loss: relative loss of the metric.
        worst_loss: plans expected to lose more are never worth building.
        focus_loss: what to aim at first where ``max_loss`` sets no goal; excludes nothing.
    """

    max_seconds: float | None = None
    max_loss: float | None = None
    worst_loss: float = 0.5
    focus_loss: float | None = None


def propose(
    tables: Tables,
    correction: Correction,
    measured: Sequence[tuple[int, ...]],
    k: int,
    *,
    limits: Limits | None = None,
    refused: Collection[str] = (),
    bins: int = 2000,
) -> list[Plan]:
    """The next ``k`` plans to build: first what the goals ask for, then where nothing is known.

    Plans come from the corrected frontier, spread over log latency and expected loss, away from
    what is measured. Fewer than ``k`` come back when the frontier holds no more.

    Args:
        tables: corrected and vetoed.
        correction: gives the expected loss.
        measured: picks of what was built already; its candidates are never proposed again.
        refused: keys of candidates that failed to build.
    """
    several = propose_among(
        [tables], correction, [measured], k, limits=limits, refused=refused, bins=bins
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
        (i, Plan(picks, *tables[i].totals(picks)))
        for i, own in enumerate(measured)
        for picks in own
    ]
    done = {tables[i].candidate(plan.picks).key for i, plan in known} | set(refused)
    frontier = _new(tables, _frontier(tables, bins), done)
    if not frontier or k <= 0:
        return []
    first = _at_goals(frontier, correction, limits)[:k]
    allowed = [p for p in frontier if _useful(p[1], correction, limits) and p not in first]
    taken = [_place(plan, correction) for _, plan in [*known, *first]]
    chosen = spread([_place(p, correction) for _, p in allowed], k - len(first), taken)
    return first + [allowed[i] for i in chosen]


def _frontier(tables: Sequence[Tables], bins: int) -> list[tuple[int, Plan]]:
    """The plans of all tables that no other one beats, fastest first."""
    plans = [(i, plan) for i, own in enumerate(tables) for plan in solve(own, bins=bins)]
    plans = [p for p in plans if p[1].seconds > 0]  # nothing is left of a model that takes no time
    plans.sort(key=lambda p: (p[1].seconds, p[1].error))
    found: list[tuple[int, Plan]] = []
    for i, plan in plans:
        if not found or plan.error < found[-1][1].error:
            found.append((i, plan))
    return found


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
    """The fastest plan within the loss, and the best one within the latency."""
    found: list[tuple[int, Plan]] = []
    loss = limits.focus_loss if limits.max_loss is None else limits.max_loss
    if loss is not None:
        found += [p for p in plans if correction.loss(p[1].error) <= loss][:1]
    if limits.max_seconds is not None:
        within = [p for p in plans if p[1].seconds <= limits.max_seconds]
        found += [min(within, key=lambda p: p[1].error)] if within else []
    return list(dict.fromkeys(found))


def _useful(plan: Plan, correction: Correction, limits: Limits, slack: float = 2.0) -> bool:
    """Whether a plan is near enough to the goals to teach something about them."""
    loss = correction.loss(plan.error)
    slow = limits.max_seconds is not None and plan.seconds > slack * limits.max_seconds
    lossy = limits.max_loss is not None and loss > slack * limits.max_loss + 0.02
    return not (slow or lossy) and loss <= limits.worst_loss


def _place(plan: Plan, correction: Correction) -> tuple[float, float]:
    """Where a plan lies: log latency, and expected quality relative to the dense model."""
    return math.log(plan.seconds), -min(correction.loss(plan.error), 1.0)
