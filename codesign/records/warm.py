"""Which schedules to try first: those that were fast for the same kernel elsewhere.

A kernel's hash says that it is the same function in the same layout, so a schedule found on another device is
a schedule here too if it is in this target's space: by its hash, or, where the target's own instructions or its
threads change the code, by the decisions taken in it. Nothing is believed: all that comes of it is an order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from codesign.records.entries import Elsewhere, MeasureKey, Trial

NEAR = 1.25
"""Schedules within this factor of the fastest one elsewhere are worth an early trial here."""

WITHIN = 1.02
"""A schedule counts as found if it is within 2 % of the best."""


@dataclass(frozen=True)
class Hint:
    """A schedule that was fast elsewhere.

    Attributes:
        schedule: its hash there.
        decisions: what was decided in it; "" if not known.
        relative: its time over that of the fastest there.
        device, target: where.
        distance: 0: another protocol or version only; 1: another device; 2: another target.
    """

    schedule: str
    decisions: str
    relative: float
    device: str
    target: str
    distance: int


def hints(key: MeasureKey, elsewhere: Sequence[Elsewhere]) -> list[Hint]:
    """What was fast elsewhere, the likeliest first: from the most similar place, and fastest there.

    What failed or ran emulated says nothing about speed.
    """
    found: list[Hint] = []
    for other in elsewhere:
        times = {t.schedule: _time(t) for t in other.trials}
        best = min(times.values(), default=math.inf)
        if not math.isfinite(best):
            continue
        target, device = other.key.target != key.target, other.key.device != key.device
        found += [
            Hint(
                schedule,
                str(other.decisions.get(schedule, "")),
                time / best,
                other.key.device,
                other.key.target,
                2 if target else int(device),
            )
            for schedule, time in times.items()
            if time <= NEAR * best
        ]
    return sorted(found, key=lambda h: (h.distance, h.relative, h.schedule))


def matched(
    space: Sequence[str], decisions: Mapping[str, str], fast: Sequence[Hint]
) -> dict[str, Hint]:
    """The schedules of a space that hints name, the likeliest first.

    Args:
        space: hashes.
        decisions: hash -> decisions, for hints from other targets; may be empty.
        fast: from `hints`.
    """
    ours: dict[str, str] = {}
    for schedule in space:
        ours.setdefault(decisions.get(schedule, ""), schedule)
    members, found = set(space), dict[str, Hint]()
    for hint in fast:
        here = hint.schedule if hint.schedule in members else ours.get(hint.decisions or "?")
        if here is not None:
            found.setdefault(here, hint)
    return found


def order(space: Sequence[str], tried: Iterable[str], warm: Iterable[str]) -> list[str]:
    """The schedules of a space in the order of their trials.

    The default stays first, for it is what others are checked against; then those tried here already, so that a
    budget counts them; then what was fast elsewhere; then the rest as the space has them.

    Args:
        space: hashes in the space's own order, the default first.
        tried: hashes with a trial under this key, oldest first.
        warm: hashes from `matched`.
    """
    members = set(space)
    first = [s for s in (*tried, *warm) if s in members]
    return list(dict.fromkeys([*space[:1], *first, *space]))


@dataclass(frozen=True)
class Gain:
    """Trials until a schedule within 2 % of the best was met.

    Attributes:
        default: in the order of the space: at most so many, for what was not tried may have been as good.
        warm: in the order taken.
        exact: True if all that the space has before was tried, so that ``default`` is no bound but known.
    """

    default: int
    warm: int
    exact: bool


def gain(space: Sequence[str], taken: Sequence[str], times: Mapping[str, float]) -> Gain | None:
    """What an order gained.

    Args:
        space: hashes in the space's own order.
        taken: hashes in the order of their trials.
        times: hash -> time of those that worked, NaN or absent for others.

    Returns:
        None if none of them worked.
    """
    sound = {h: t for h, t in times.items() if math.isfinite(t) and h in set(space)}
    if not sound:
        return None
    good = {h for h, t in sound.items() if t <= WITHIN * min(sound.values())}
    place = next(i for i, h in enumerate(space) if h in good)
    turn = next((i for i, h in enumerate(taken) if h in good), len(taken) - 1)
    return Gain(place + 1, turn + 1, all(h in set(taken) for h in space[:place]))


def _time(trial: Trial) -> float:
    """Comparable within one key: the ratio to the reference, or seconds without one."""
    m = trial.measurement
    if not m.ok or m.meta.get("emulated"):
        return math.inf
    return m.ratio if math.isfinite(m.ratio) else m.seconds
