"""What measuring changed in the choices: the closed loop, shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codesign.search.dp import Plan, solve
from codesign.search.tables import Layer, Option, Tables


@dataclass(frozen=True)
class Change:
    """A group that gets another option after a round, at the same latency.

    Attributes:
        group: group, or layer if it is dropped or comes back.
        round: the round whose measurements changed it.
        seconds: latency of the plans compared.
        before, after: labels of the options.
        because: what was measured.
    """

    group: str
    round: int
    seconds: float
    before: str
    after: str
    because: str


def changes(
    before: Tables, after: Tables, levels: Sequence[float], round: int, bins: int = 2000
) -> list[Change]:
    """Compare the best plans before and after a round's corrections.

    Args:
        before, after: the same groups and options with old and new numbers and vetoes.
        levels: latencies in seconds at which to compare; a group is reported once, at the first.
        round: number of the round.
    """
    old, new = solve(before, bins=bins), solve(after, bins=bins)
    found: dict[str, Change] = {}
    for level in levels:
        a, b = _best(old, level), _best(new, level)
        if a is None or b is None:
            continue
        for name, was, now in _differences(before, after, a, b):
            reason = _reason(name, was, now, before, after)
            found.setdefault(name, Change(name, round, level, _label(was), _label(now), reason))
    return list(found.values())


def _best(plans: Sequence[Plan], level: float) -> Plan | None:
    """The plan of least error that is not slower than the level."""
    within = [p for p in plans if p.seconds <= level]
    return within[-1] if within else None


def _differences(
    before: Tables, after: Tables, a: Plan, b: Plan
) -> list[tuple[str, Option | None, Option | None]]:
    """(name, option before, option after) where they differ; None for a layer that stays."""
    was, now = dict(before.chosen(a.picks)), dict(after.chosen(b.picks))
    found: list[tuple[str, Option | None, Option | None]] = []
    for layer in before.layers:
        gone = [_dropped(layer, chosen) for chosen in (was, now)]
        if any(gone) and not all(gone):
            found.append((layer.name, gone[0], gone[1]))
        elif not any(gone):
            pairs = ((g.name, was[g.name], now[g.name]) for g in layer.groups)
            found += [pair for pair in pairs if pair[1].choices != pair[2].choices]
    return found


def _dropped(layer: Layer, chosen: Mapping[str, Option]) -> Option | None:
    """The layer's drop option if it was taken."""
    option = chosen.get(layer.name)
    same = option is not None and layer.drop is not None and option.choices == layer.drop.choices
    return option if same else None


def _label(option: Option | None) -> str:
    return option.label if option else "kept"


def _reason(
    name: str, was: Option | None, now: Option | None, before: Tables, after: Tables
) -> str:
    """The number of these two options that moved most, in words."""
    moved: list[tuple[float, str]] = []
    for option in (o for o in (was, now) if o is not None):
        old, new = _find(before, name, option), _find(after, name, option)
        if old is None or new is None:
            continue
        if new.veto and not old.veto:
            return f"{option.label} is vetoed: {new.veto}"
        for text, x, y in (
            ("causes {:.2g} times the output error that was predicted", old.error, new.error),
            ("takes {:.2g} times the latency that was predicted", old.seconds, new.seconds),
        ):
            if x > 0 and y > 0 and abs(y / x - 1.0) > 0.02:
                moved.append((max(y / x, x / y), f"{option.label} {text.format(y / x)}"))
    if moved:
        return max(moved)[1]
    return "what was measured at other sites moved the latency and error left for this one"


def _find(tables: Tables, name: str, like: Option) -> Option | None:
    """The option of the same choices under a group or layer name."""
    for layer in tables.layers:
        if layer.name == name and layer.drop and layer.drop.choices == like.choices:
            return layer.drop
        for group in layer.groups:
            if group.name == name:
                for option in group.options:
                    if option.choices == like.choices:
                        return option
    return None
