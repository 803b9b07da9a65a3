"""Three objectives: latency, error and size, by a handful of prices of a byte.

For each price the dynamic programming is exact for seconds plus price times bytes against error
(`codesign.search.dp`). The prices span from nothing, where only seconds count, to one at which a byte
outweighs all seconds. So every plan found is on the frontier of three objectives up to the bins, and
of that frontier those are found that are, among plans of no more error, on the lower convex hull of
seconds and bytes next to one of the prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from codesign.pareto import front_of
from codesign.search.dp import Plan, solve
from codesign.search.tables import Tables

PRICES = (1 / 32, 1 / 8, 1 / 2, 2.0, 8.0, 32.0)
"""Prices of a byte between the ends, relative to the seconds over the bytes that can be saved."""

STEPS = 8
"""Halvings, on a logarithmic scale, that look for the price at which a limit of the size is met."""


def solve_sized(
    tables: Tables,
    *,
    bins: int = 2000,
    max_error: float | None = None,
    max_size: float | None = None,
) -> list[Plan]:
    """Plans that do not dominate each other in (seconds, error, size), by rising seconds.

    Args:
        tables: vetoed options are never taken; sizes are known.
        bins: as in `solve`; a quarter of it for the prices between the ends.
        max_error, max_size: with both, the price is sought at which the cheapest plan of no more
            error takes no more bytes, so that the fastest plan within both is near what is found.
    """
    above_all = _seconds(tables)  # for a byte
    fastest, smallest = (solve(tables, bins=bins, price=p) for p in (0.0, above_all))
    found = [*fastest, *smallest]
    seconds, size = (
        max(v) - min(v) for v in zip(*((p.seconds, p.size) for p in found), strict=True)
    )
    if seconds > 0 and size > 0:
        unit, fewer = seconds / size, max(bins // 4, 1)
        for share in PRICES:
            found += solve(tables, bins=fewer, price=share * unit)
        if max_error is not None and max_size is not None:
            found += _at_limit(tables, unit, fewer, max_error, max_size)
    return [found[i] for i in front_of([(p.seconds, p.error, p.size) for p in found])]


def saved_share(
    dense: float, sizes: Sequence[tuple[float, float]], prior: float = 0.1, noise: float = 0.02
) -> float:
    """Bytes really saved for each byte predicted to be saved against the dense model; 1 without any.

    Least squares through the dense model, whose size is known, with a normal prior around 1: what
    a prediction leaves out is the code of other kernels, and that fewer weights may code less well.

    Args:
        dense: size of the dense model's bundle.
        sizes: (predicted, measured) of other bundles.
        prior: standard deviation of the share before anything was measured.
        noise: standard deviation of one size, relative to the dense one.
    """
    saved = [((dense - p) / dense, (dense - m) / dense) for p, m in sizes]
    weight = (noise / prior) ** 2
    both = sum(p * m for p, m in saved) + weight
    return both / (sum(p * p for p, _ in saved) + weight)


def _at_limit(
    tables: Tables, unit: float, bins: int, max_error: float, max_size: float
) -> list[Plan]:
    """What the search for the price finds on its way."""
    low, high = unit / 1024, unit * 1024
    found: list[Plan] = []
    for _ in range(STEPS):
        middle = sqrt(low * high)
        plans = solve(tables, bins=bins, price=middle)
        found += plans
        within = [p for p in plans if p.error <= max_error]
        fits = bool(within) and within[0].size <= max_size
        low, high = (low, middle) if fits else (middle, high)
    return found


def _seconds(tables: Tables) -> float:
    """Seconds that no plan exceeds."""
    parts = [tables.base_seconds]
    for layer in tables.layers:
        parts.append(layer.base_seconds)
        parts += [max(o.seconds for o in g.options) for g in layer.groups]
    return sum(parts) or 1.0
