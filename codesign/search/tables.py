"""The tables that the search works on: options of each site group, with latency and error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from codesign.candidate import Candidate, Choice


@dataclass(frozen=True)
class Option:
    """One way to treat a group of sites.

    Attributes:
        choices: what is done; empty for leaving the group as it is.
        family: what this option has in common with others, such as ``int8`` or ``sparse``; errors
            of one family are corrected together.
        seconds: sum of the measured medians of the group's kernels.
        error: output error that this option alone causes, in a unit in which independent errors
            add up: the relative *squared* error of the outputs.
        veto: why the option must not be taken; empty if it may.
    """

    choices: tuple[Choice, ...]
    family: str
    seconds: float
    error: float
    veto: str = ""

    @property
    def label(self) -> str:
        """What people call it: the choices and where in the group they are, or ``dense``."""
        names = (f"{c.place} {c.describe()}".strip() for c in self.choices)
        return " + ".join(dict.fromkeys(names)) or "dense"


@dataclass(frozen=True)
class Group:
    """Sites that are decided together, such as the two linears of an FFN, and their options."""

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if not any(not option.veto for option in self.options):
            raise ValueError(f"group {self.name} has no option that is not vetoed")


@dataclass(frozen=True)
class Layer:
    """Groups that can be dropped at once.

    Attributes:
        groups: decided one by one if the layer stays.
        drop: the option that removes the layer, with the seconds left of it (often 0); None if it
            cannot be dropped.
        base_seconds: kernels of the layer that no option changes; saved by dropping it.
    """

    name: str
    groups: tuple[Group, ...]
    drop: Option | None = None
    base_seconds: float = 0.0


@dataclass(frozen=True)
class Tables:
    """The whole model: its layers, and the seconds that no option changes."""

    layers: tuple[Layer, ...]
    base_seconds: float = 0.0

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups in order; picks of a plan are in this order."""
        return tuple(group for layer in self.layers for group in layer.groups)

    def mapped(self, change: Callable[[str, Option], Option]) -> Tables:
        """The tables with ``change(group or layer name, option)`` in place of each option."""
        return replace(
            self,
            layers=tuple(
                replace(
                    layer,
                    groups=tuple(
                        replace(g, options=tuple(change(g.name, o) for o in g.options))
                        for g in layer.groups
                    ),
                    drop=change(layer.name, layer.drop) if layer.drop else None,
                )
                for layer in self.layers
            ),
        )

    def chosen(self, picks: tuple[int, ...]) -> list[tuple[str, Option]]:
        """(group or layer name, option) that a plan takes; a dropped layer gives one entry.

        Args:
            picks: for each group the option's index, -1 throughout a dropped layer.
        """
        taken: list[tuple[str, Option]] = []
        start = 0
        for layer in self.layers:
            own = picks[start : start + len(layer.groups)]
            start += len(layer.groups)
            if layer.drop is not None and own and own[0] < 0:
                taken.append((layer.name, layer.drop))
            else:
                pairs = zip(layer.groups, own, strict=True)
                taken += [(g.name, g.options[i]) for g, i in pairs]
        return taken

    def candidate(self, picks: tuple[int, ...]) -> Candidate:
        """The candidate that a plan stands for."""
        return Candidate.of(c for _, option in self.chosen(picks) for c in option.choices)

    def totals(self, picks: tuple[int, ...]) -> tuple[float, float]:
        """(seconds, error) of a plan, summed without rounding."""
        taken = self.chosen(picks)
        dropped = {name for name, option in taken if _is_drop(self, name, option)}
        seconds = self.base_seconds + sum(
            layer.base_seconds for layer in self.layers if layer.name not in dropped
        )
        return seconds + sum(o.seconds for _, o in taken), sum(o.error for _, o in taken)

    def uniform(self, family: str) -> tuple[int, ...]:
        """Picks that take the family's first option wherever one is offered, else the first."""
        picks = []
        for group in self.groups:
            fits = [i for i, o in enumerate(group.options) if o.family == family and not o.veto]
            picks.append(fits[0] if fits else 0)
        return tuple(picks)


def _is_drop(tables: Tables, name: str, option: Option) -> bool:
    return any(layer.name == name and layer.drop is option for layer in tables.layers)
