"""Widths of all groups for a share of the multiply-adds: all alike, or by importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from passes.channels.graph import Positions
from passes.channels.groups import ChannelGroup
from passes.channels.importance import Importance
from passes.channels.macs import Work
from passes.errors import PassError
from passes.model import Model

if TYPE_CHECKING:
    from targets.target import Target

LEAST = 0.125
"""Share of its units that a group keeps at least, so that no layer becomes a bottleneck."""

_HALVINGS = 30


def uniform_widths(
    model: Model, groups: Sequence[ChannelGroup], share: float, target: Target
) -> dict[ChannelGroup, int]:
    """The largest equal share of every group's units for which the model has ``share`` of its work.

    Args:
        model: a canonical model.
        groups: of the model.
        share: of the multiply-adds of convolutions and linear layers that may be left.
        target: widths that change are multiples of its steps.

    Raises:
        PassError: the share cannot be had with these groups.
    """
    work = Work(model, groups)
    limit = share * work.total({})

    def widths(part: float) -> dict[ChannelGroup, int]:
        return {group: _rounded(group, part, target) for group in groups}

    if work.total(widths(1.0)) <= limit:
        return widths(1.0)
    _require(work.total(widths(0.0)), limit, work)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if work.total(widths(middle)) <= limit else (low, middle)
    return widths(low)


def ranked_widths(
    model: Model,
    importance: Mapping[ChannelGroup, Importance],
    share: float,
    target: Target,
) -> dict[ChannelGroup, int]:
    """Widths by importance: the step that loses least for each multiply-add saved goes first.

    Args:
        model: a canonical model.
        importance: of the units of every group that may be pruned, comparable between groups.
        share, target: as in ``uniform_widths``.

    Raises:
        PassError: the share cannot be had with these groups.
    """
    groups = list(importance)
    work = Work(model, groups)
    full = total = work.total({})
    least = {group: _rounded(group, 0.0, target) for group in groups}
    _require(work.total(least), share * full, work)
    lost = {g: np.concatenate([[0.0], np.cumsum(np.sort(importance[g]))]) for g in groups}
    widths = {group: group.size for group in groups}
    while total > share * full:
        best: tuple[float, ChannelGroup, int, int] | None = None
        for group in groups:
            width = _narrower(widths[group], group.step(target))
            if width < least[group]:
                continue
            left = work.total({**widths, group: width})
            loss = lost[group][group.size - width] - lost[group][group.size - widths[group]]
            price = loss / max(total - left, 1)
            if best is None or price < best[0]:
                best = (price, group, width, left)
        assert best is not None  # with the least widths the share is had
        _, group, widths[group], total = best
    return widths


def most_important(importance: Importance, width: int) -> Positions:
    """The ``width`` units that matter most, ascending."""
    return np.sort(np.argsort(importance, kind="stable")[len(importance) - width :])


def _rounded(group: ChannelGroup, part: float, target: Target) -> int:
    """A share of a group's units as a multiple of its step, at least ``LEAST`` of them; all if 1."""
    if part == 1.0:
        return group.size
    step = group.step(target)
    width = max(1, round(part * group.size / step), -int(-LEAST * group.size // step)) * step
    return min(width, group.size)


def _narrower(width: int, step: int) -> int:
    """The largest multiple of the step below a width."""
    return (width - 1) // step * step


def _require(least: int, limit: float, work: Work) -> None:
    if least > limit:
        full = work.total({})
        raise PassError(
            "these groups cannot make the model that small",
            got=f"{limit / full:.3f} of the multiply-adds",
            allowed=f"at least {least / full:.3f}",
            next="allow a larger share",
        )
