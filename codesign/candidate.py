"""A candidate: which pass is applied where, with what setting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from codesign.frozen import FrozenMap, canonical, digest

WHOLE = "model"
"""The site of a pass that is applied to the whole model at once."""

_VERBS = ("prune_", "drop_", "quantize_", "format_")


@dataclass(frozen=True)
class Choice:
    """One pass at one site.

    Attributes:
        site: name of the site in the model, such as ``layer0.ffn``.
        pass_name: the pass, such as ``ffn`` or ``int8``; ``pass`` in JSON.
        setting: what the pass is told, JSON only; any mapping is accepted and frozen.
    """

    site: str
    pass_name: str = field(metadata={"json": "pass"})
    setting: Mapping[str, Any] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        if not isinstance(self.setting, FrozenMap):
            object.__setattr__(self, "setting", FrozenMap(self.setting))

    def plain(self) -> dict[str, Any]:
        """``{"site", "pass", "setting"}``, the form that frontier.json and the records hold."""
        return {"site": self.site, "pass": self.pass_name, "setting": self.setting}

    @property
    def place(self) -> str:
        """Where in its block it is: ``qkv`` for ``layer0.attention.qkv``, empty for the block itself."""
        return ".".join(self.site.split(".")[2:])

    def describe(self) -> str:
        """The pass and its setting without the site: ``ffn 1152``, ``sparse density=0.5 int8``."""
        name = self.pass_name
        for verb in _VERBS:
            name = name.removeprefix(verb)
        # a table within a setting says in numbers what the other values say in words
        short = {k: v for k, v in self.setting.items() if not isinstance(v, Mapping)}
        values = [_word(k, v, alone=len(short) == 1) for k, v in short.items()]
        return " ".join([name.replace("_", " "), *(v for v in values if v)])


@dataclass(frozen=True)
class Candidate:
    """Choices in canonical order; no choices is the dense model.

    Order says nothing about which pass runs first: the pipeline decides that.

    Raises:
        ValueError: one pass twice at one site.
    """

    choices: tuple[Choice, ...] = ()

    def __post_init__(self) -> None:
        ordered = sorted(self.choices, key=lambda c: (c.site, c.pass_name, canonical(c.setting)))
        object.__setattr__(self, "choices", tuple(ordered))
        count = Counter((c.site, c.pass_name) for c in ordered)
        twice = [f"{pass_name} at {site}" for (site, pass_name), n in count.items() if n > 1]
        if twice:
            raise ValueError(f"a candidate applies a pass once per site, got twice: {twice[0]}")

    def __iter__(self) -> Iterator[Choice]:
        return iter(self.choices)

    def __len__(self) -> int:
        return len(self.choices)

    @classmethod
    def of(cls, choices: Iterable[Choice]) -> Candidate:
        """A candidate of any iterable of choices."""
        return cls(tuple(choices))

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON: equal choices have equal keys on every machine."""
        return digest([choice.plain() for choice in self.choices])

    def label(self, totals: Mapping[str, int] | None = None, limit: int = 4) -> str:
        """A short text for people: ``ffn 1152 x4, int8 all``; what is done to the whole model first.

        Args:
            totals: pass name -> number of sites it could apply to; a pass with one setting at all
                of them reads ``all``.
            limit: most kinds of choice named; the rest is counted.
        """
        if not self.choices:
            return "dense"
        parts = [choice.describe() for choice in self.choices if choice.site == WHOLE]
        rest = [choice for choice in self.choices if choice.site != WHOLE]
        count = Counter((choice.pass_name, choice.describe()) for choice in rest)
        for (pass_name, text), n in sorted(count.items(), key=lambda item: (-item[1], item[0])):
            every = totals is not None and totals.get(pass_name) == n
            parts.append(f"{text} all" if every else f"{text} x{n}")
        if len(parts) > limit:
            parts[limit:] = [f"+{len(parts) - limit} more"]
        return ", ".join(parts)


def _word(key: str, value: Any, alone: bool) -> str:
    """A setting's value as people say it: ``int8`` for bits=8, a bare number if it stands alone."""
    if key == "taps":  # the layer is a convolution: its name says so
        return ""
    if key == "bits":
        return "int8" if value == 8 else f"{value}-bit"
    if isinstance(value, bool):
        return key if value else ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, tuple):
        text = f"[{len(value)}]"
    return text if alone else f"{key}={text}"
