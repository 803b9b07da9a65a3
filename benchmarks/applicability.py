"""Which family of compression applies to which architecture, and why not, as a Markdown table.

    python -m benchmarks.applicability --write docs/applicability.md

Nothing is solved or compiled: each pass is asked what it offers at each site of the imported model.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.models.zoo import PUBLISHED, Architecture
from codesign.candidate import Choice
from codesign.frontend.torch_export import from_module
from codesign.loop.blocks import DROP
from codesign.pipeline import canonical
from passes import (
    approximate,
    bf16,
    codebook,
    ffn,
    fp16,
    fuse,
    heads,
    int8,
    int8_attention,
    int8_static,
    layers,
    low_rank,
    norm,
    pattern,
    sparse,
    tokens,
    tucker,
    weight_only,
)
from passes.channels import prune as channels
from passes.channels.groups import find_groups
from passes.find_sites import find_sites
from passes.model import Model
from passes.report import Refusal
from passes.sites import FFN, Attention, Linear, Part, Sites, encoder_layers
from targets.target import Target, find

TARGET = "sapphirerapids"
"""What the table is for: a target with an instruction for each of the formats."""


@dataclass(frozen=True)
class Subject:
    """A canonical model and its sites."""

    model: Model
    sites: Sites

    @classmethod
    def of(cls, imported: Model) -> Subject:
        model = canonical(imported)
        return cls(model, find_sites(model))

    @cached_property
    def _fusable(self) -> dict[Target, fuse.Fusable]:
        return {}

    def fusable(self, target: Target) -> fuse.Fusable:
        """The model lowered for a target, up to the choice of its kernels."""
        if target not in self._fusable:
            self._fusable[target] = fuse.fusable(self.model, target)
        return self._fusable[target]

    @property
    def parts(self) -> list[Part]:
        """What the sections decide on, in order."""
        return [part for section in self.sites.layers for part in section.parts]

    @property
    def linears(self) -> list[Linear]:
        """The layers among the parts, and those within them."""
        inside = [_linears(part) for part in self.parts]
        return [linear for group in inside for linear in group]


def _linears(part: Part) -> tuple[Linear, ...]:
    if isinstance(part, Attention):
        return (part.qkv, part.out)
    return (part.up, part.down) if isinstance(part, FFN) else (part,)


Choices: TypeAlias = Callable[[Any, Target], tuple[Sequence[Any], Sequence[Refusal]]]


@dataclass(frozen=True)
class Family:
    """A family of compression.

    Attributes:
        name: for people.
        places: where it could apply in a model.
        choices: what the pass offers at one of them.
        nowhere: why not, for a model without such places.
        setting: from an offer to the choice of a candidate; None if it is no choice at a site: channels
            of the whole model, and kernels, which change no number.
    """

    name: str
    places: Callable[[Subject], Sequence[Any]]
    choices: Choices
    nowhere: str
    setting: Callable[[Any], tuple[str, Mapping[str, Any]]] | None = None

    def choice(self, place: Any, offer: Any) -> Choice:
        """The choice of a candidate that takes an offer."""
        assert self.setting is not None
        return Choice(place.name, *self.setting(offer))


@dataclass(frozen=True)
class Applies:
    """A family applies: the first place where it does, and what is offered there."""

    place: Any
    offers: Sequence[Any]


Verdict: TypeAlias = Applies | str
"""Where a family applies, or the reason why it does not."""


def verdict(family: Family, subject: Subject, target: Target) -> Verdict:
    """Whether a family applies to a model, and where; otherwise the reason given most often."""
    reasons: Counter[str] = Counter()
    for place in family.places(subject):
        offers, refusals = family.choices(place, target)
        if offers:
            return Applies(place, offers)
        reasons.update(r.reason for r in refusals)
    return reasons.most_common(1)[0][0] if reasons else family.nowhere


def _pairs(subject: Subject, of_convs: bool) -> list[FFN]:
    found = [part for part in subject.parts if isinstance(part, FFN)]
    return [f for f in found if bool(f.up.window or f.down.window) == of_convs]


def _attentions(subject: Subject) -> list[Attention]:
    return [part for part in subject.parts if isinstance(part, Attention)]


def _format(name: str, of: Any, config: Any = None) -> Family:
    """A family that is a format of single layers."""

    def choices(site: Linear, target: Target) -> tuple[Sequence[Any], Sequence[Refusal]]:
        found: tuple[Sequence[Any], Sequence[Refusal]] = of.choices(site, target, config)
        return found

    def setting(offer: Any) -> tuple[str, Mapping[str, Any]]:
        return of.NAME, offer.setting

    return Family(name, lambda s: s.linears, choices, "it has no layer in a section", setting)


@dataclass(frozen=True)
class _Sequence:
    """The layers of an encoder as one place where tokens may be merged."""

    subject: Subject

    @property
    def name(self) -> str:
        return encoder_layers(self.subject.sites.layers)[-1].name


def _sequences(subject: Subject) -> list[_Sequence]:
    return [_Sequence(subject)] if encoder_layers(subject.sites.layers) else []


def _token_choices(place: _Sequence, target: Target) -> tuple[Sequence[Any], Sequence[Refusal]]:
    return tokens.choices(place.subject.model, encoder_layers(place.subject.sites.layers))


def _groups(subject: Subject) -> Sequence[Any]:
    return find_groups(subject.model)[0]


@dataclass(frozen=True)
class Fusion:
    """A part that a chain of operators may have as one kernel, where relax's rule makes other ones.

    Attributes:
        chain: its number among the chains of the model.
    """

    chain: int
    span: fuse.Span


def _fusions(
    subject: Subject, target: Target, across: bool
) -> tuple[Sequence[Fusion], Sequence[Refusal]]:
    """The parts across the groups that relax makes, or the parts of one group."""
    found = subject.fusable(target)
    offers = []
    for number, chain in enumerate(found.chains):
        for start, end in fuse.choices(chain, target)[0]:
            inside = any(begin <= start and end <= stop for begin, stop in chain.default)
            if (start, end) not in chain.default and inside != across:
                offers.append(Fusion(number, (start, end)))
    return offers, found.refusals if across else []


_PAIRLESS = "no two {} have only elementwise work between them"
_FULL_INT8 = int8.Int8Config(densities=(1.0,))

FAMILIES: tuple[Family, ...] = (
    Family(
        "neurons between two linear layers",
        partial(_pairs, of_convs=False),
        ffn.choices,
        _PAIRLESS.format("linear layers"),
        lambda offer: ("ffn", {"keep": offer["width"]}),
    ),
    Family(
        "channels between two convolutions",
        partial(_pairs, of_convs=True),
        ffn.choices,
        _PAIRLESS.format("convolutions"),
        lambda offer: ("ffn", {"keep": offer["width"]}),
    ),
    Family(
        "channels over the dependency graph",
        _groups,
        channels.choices,
        "all of its channels reach the outputs",
    ),
    Family(
        "heads",
        _attentions,
        heads.choices,
        "it has no attention",
        lambda offer: ("heads", {"keep": offer["heads"]}),
    ),
    Family(
        "layers",
        lambda s: s.sites.layers,
        layers.choices,
        "it has no sections",
        lambda offer: (DROP, offer),
    ),
    Family(
        "tokens",
        _sequences,
        _token_choices,
        "it is no encoder: there are no tokens",
        lambda offer: (tokens.NAME, offer),
    ),
    _format("vector sparsity", sparse),
    _format("patterns", pattern, pattern.PatternConfig(shares=(1.0,))),
    _format(
        "patterns with connectivity",
        pattern,
        pattern.PatternConfig(shares=(1 / pattern.CONNECTIVITY,)),
    ),
    _format("int8, dynamic", int8, _FULL_INT8),
    _format("int8, static", int8_static, int8_static.Int8StaticConfig(int8=_FULL_INT8)),
    Family(
        "int8 attention",
        _attentions,
        int8_attention.choices,
        "it has no attention",
        lambda offer: (int8_attention.NAME, {}),
    ),
    _format("bfloat16", bf16),
    _format("float16", fp16),
    _format("weight-only int8", weight_only, weight_only.WeightOnlyConfig(codes=((8, 128, True),))),
    _format("weight-only int4", weight_only, weight_only.WeightOnlyConfig(codes=((4, 64, True),))),
    _format("low rank", low_rank),
    _format("Tucker", tucker),
    _format("codebook", codebook),
    Family(
        "approximate GELU",
        lambda s: [part for part in s.parts if isinstance(part, FFN)],
        approximate.choices,
        "it has no pair of layers with a GELU between them",
        lambda offer: (approximate.NAME, {}),
    ),
    Family(
        "short exponentials in softmax",
        _attentions,
        approximate.choices,
        "it has no attention",
        lambda offer: (approximate.NAME, {}),
    ),
    Family(
        "layer norm as an affine map",
        lambda s: [part for part in s.parts if isinstance(part, Attention | FFN)],
        norm.choices,
        "it has neither attention nor a pair of layers",
        lambda offer: (norm.NAME, {}),
    ),
    Family(
        "fusion: what follows a product apart",
        lambda s: [s],
        partial(_fusions, across=False),
        "nothing elementwise follows a product",
    ),
    Family(
        "fusion: one pass over rows",
        lambda s: [s],
        partial(_fusions, across=True),
        "it has no two passes over rows, one behind the other",
    ),
)
"""All of them, in the order of the table."""


def subject_of(architecture: Architecture, name: str) -> Subject:
    """An architecture, imported."""
    module, inputs = architecture.make()
    return Subject.of(from_module(module, inputs, name, {}).model)


def verdicts(subject: Subject, target: Target) -> dict[str, Verdict]:
    """What is said of a model, by the name of the family."""
    return {family.name: verdict(family, subject, target) for family in FAMILIES}


def table(said: Mapping[str, Mapping[str, Verdict]]) -> str:
    """Architecture -> family -> verdict as Markdown: a table, and the reasons below it."""
    reasons: dict[str, int] = {}

    def cell(found: Verdict) -> str:
        if isinstance(found, Applies):
            return "yes"
        return f"[{reasons.setdefault(found, len(reasons) + 1)}]"

    heading = ["family", *(name.replace("_", " ") for name in said)]
    rows = [heading, ["---"] * len(heading)]
    for family in FAMILIES:
        rows.append([family.name, *(cell(one[family.name]) for one in said.values())])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", *notes]) + "\n"


HEAD = """# What applies where

Each family of compression (docs/families.md) at twelve architectures of published widths, with one input of
128 tokens or 224 x 224 pixels, for the target `{target}`. *yes*: the pass offers something at one site at
least; a number: it offers nothing, for the reason most often given, below the table. Whether it is worth its
loss, and is faster, is for measurements to say. Narrow versions of the same networks are compressed by each
family that applies, built, and compared with PyTorch, in tests/architectures/test_compression_table.py.

Made by `python -m benchmarks.applicability --write docs/applicability.md`; a test compares it.

"""


def page() -> str:
    """The page in docs."""
    target = find(TARGET)
    said = {n: verdicts(subject_of(a, n), target) for n, a in PUBLISHED.items()}
    return HEAD.format(target=target.name) + table(said)


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="file to write instead of printing")
    given = parser.parse_args()
    text = page()
    if given.write is None:
        print(text, end="")
    else:
        given.write.write_text(text)


if __name__ == "__main__":
    main()
