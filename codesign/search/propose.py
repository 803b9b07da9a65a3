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
    limits = limits or Limits()
    done = {tables.candidate(picks).key for picks in measured} | set(refused)
    frontier = _new(tables, solve(tables, bins=bins), done)
    if not frontier or k <= 0:
        return []
    first = _at_goals(frontier, correction, limits)[:k]
    allowed = [p for p in frontier if _useful(p, correction, limits) and p not in first]
    known = [Plan(picks, *tables.totals(picks)) for picks in measured]
    taken = [_place(p, correction) for p in [*known, *first]]
    chosen = spread([_place(p, correction) for p in allowed], k - len(first), taken)
    return first + [allowed[i] for i in chosen]


def _new(tables: Tables, plans: Sequence[Plan], done: set[str]) -> list[Plan]:
    """Plans whose candidates are not done, each candidate once."""
    fresh = []
    for plan in plans:
        key = tables.candidate(plan.picks).key
        if key not in done and plan.seconds > 0:  # nothing is left of a model that takes no time
            done.add(key)
            fresh.append(plan)
    return fresh


def _at_goals(plans: Sequence[Plan], correction: Correction, limits: Limits) -> list[Plan]:
    """The fastest plan within the loss, and the best one within the latency."""
    found: list[Plan] = []
    loss = limits.focus_loss if limits.max_loss is None else limits.max_loss
    if loss is not None:
        found += [p for p in plans if correction.loss(p.error) <= loss][:1]
    if limits.max_seconds is not None:
        within = [p for p in plans if p.seconds <= limits.max_seconds]
        found += [min(within, key=lambda p: p.error)] if within else []
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
