"""The tables that the search works on: options of each site group, with latency and error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        shorter: the same where a shorter sequence arrives, at each of the lengths of `Tables` after the
            first; infinite where that cannot be, empty if the length makes no difference.
        error: output error that this option alone causes, in a unit in which independent errors
            add up: the relative *squared* error of the outputs.
        veto: why the option must not be taken; empty if it may.
        size: bytes that the group's weights take in a bundle; 0 throughout where nobody asks for size.
    """

    choices: tuple[Choice, ...]
    family: str
    seconds: float
    error: float
    veto: str = ""
    shorter: tuple[float, ...] = ()
    size: float = 0.0

    def at(self, length: int) -> float:
        """Its seconds where the sequence of this number arrives; 0 is the full one."""
        return self.shorter[length - 1] if length and self.shorter else self.seconds

    @property
    def label(self) -> str:
        """What people call it: the choices and where in the group they are, or ``dense``."""
        names = (f"{c.place} {c.describe()}".strip() for c in self.choices)
        return " + ".join(dict.fromkeys(names)) or "dense"


@dataclass(frozen=True)
class Group:
    """Sites that are decided together, such as the two linears of an FFN, and their options.

    Attributes:
        shortens: the group decides on the length of the sequence: its first option leaves it, option i
            goes on with length i of `Tables`. An error is what is lost of the full sequence; what
            arrives shorter has lost a part of it before.
    """

    name: str
    options: tuple[Option, ...]
    shortens: bool = False

    def __post_init__(self) -> None:
        if not any(not option.veto for option in self.options):
            raise ValueError(f"group {self.name} has no option that is not vetoed")

    def taken(self, pick: int, length: int) -> Option:
        """An option as it is where the sequence of this number arrives."""
        option = self.options[pick]
        before = self.options[length].error if self.shortens and pick else 0.0
        error = max(option.error - before, 0.0)
        return replace(option, seconds=option.at(length), error=error, shorter=())

    def goes_on(self, pick: int, length: int) -> int:
        """The number of the length behind it."""
        return pick if self.shortens and pick else length


@dataclass(frozen=True)
class Layer:
    """Groups that can be dropped at once.

    Attributes:
        groups: decided one by one if the layer stays.
        drop: the option that removes the layer, with the seconds left of it (often 0); None if it
            cannot be dropped.
        base_seconds: kernels of the layer that no option changes; saved by dropping it.
        shorter: the same for shorter sequences, as in `Option`. A group that shortens comes first.
        base_size: bytes of the layer that no option changes; saved by dropping it.
    """

    name: str
    groups: tuple[Group, ...]
    drop: Option | None = None
    base_seconds: float = 0.0
    shorter: tuple[float, ...] = ()
    base_size: float = 0.0

    def base(self, length: int) -> float:
        """Seconds that no option changes, of the sequence that its groups leave."""
        return self.shorter[length - 1] if length and self.shorter else self.base_seconds


@dataclass(frozen=True)
class Tables:
    """The whole model: its layers, and the seconds and bytes that no option changes.

    Attributes:
        lengths: numbers of tokens that a sequence can have, all first; one if nothing shortens it.
    """

    layers: tuple[Layer, ...]
    base_seconds: float = 0.0
    lengths: tuple[int, ...] = (0,)
    base_size: float = 0.0

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

        Options are as they are at the length of the sequence that arrives.

        Args:
            picks: for each group the option's index, -1 throughout a dropped layer.
        """
        return [pair for _, _, taken in self._layers(picks) for pair in taken]

    def _layers(
        self, picks: tuple[int, ...]
    ) -> Iterator[tuple[Layer, int, list[tuple[str, Option]]]]:
        """(layer, length that it leaves, what is taken) in order; -1 for a dropped layer."""
        start = length = 0
        for layer in self.layers:
            own = picks[start : start + len(layer.groups)]
            start += len(layer.groups)
            if layer.drop is not None and own and own[0] < 0:
                yield layer, -1, [(layer.name, layer.drop)]
                continue
            taken = []
            for group, pick in zip(layer.groups, own, strict=True):
                taken.append((group.name, group.taken(pick, length)))
                length = group.goes_on(pick, length)
            yield layer, length, taken

    def candidate(self, picks: tuple[int, ...]) -> Candidate:
        """The candidate that a plan stands for."""
        return Candidate.of(c for _, option in self.chosen(picks) for c in option.choices)

    def totals(self, picks: tuple[int, ...]) -> tuple[float, float]:
        """(seconds, error) of a plan, summed without rounding."""
        seconds, error = self.base_seconds, 0.0
        for layer, length, taken in self._layers(picks):
            seconds += layer.base(length) if length >= 0 else 0.0
            seconds += sum(option.seconds for _, option in taken)
            error += sum(option.error for _, option in taken)
        return seconds, error

    def size(self, picks: tuple[int, ...]) -> float:
        """Bytes of a plan's bundle."""
        size = self.base_size
        for layer, length, taken in self._layers(picks):
            size += layer.base_size if length >= 0 else 0.0
            size += sum(option.size for _, option in taken)
        return size

    def uniform(self, family: str) -> tuple[int, ...]:
        """Picks that take the family's first option wherever one is offered, else the first."""
        picks = []
        for group in self.groups:
            fits = [i for i, o in enumerate(group.options) if o.family == family and not o.veto]
            picks.append(fits[0] if fits else 0)
        return tuple(picks)
