"""A block: what is decided at once, and what was decided for it.

Attention (heads between the QKV and the output projection), FFN (neurons between the up and the down
projection) and two convolutions (channels between them) are the same thing to the search: a number of
units to keep, and a format for each of the two layers. A layer by itself is a block without units.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.candidate import Candidate, Choice
from codesign.loop.formats import format_of
from passes import approximate, int8_attention, norm, tokens
from passes.formats import DENSE, Format
from passes.sites import Attention, Linear, Part, Section, Sites
from targets.target import Target

DROP = "layers"
"""The pass that removes a layer."""
CORES = (int8_attention.NAME, approximate.NAME, norm.NAME)
"""The passes that change what lies between the layers of a block, or behind them."""


@dataclass(frozen=True)
class Block:
    """A part of a section, as the search sees it.

    Attributes:
        site: what the passes rewrite.
        first: the layer that makes the units; ``second``: the one that consumes them, if there is one.
        units: how many there are: heads, neurons or channels.
        rows: outputs of the first layer that make one unit (of Q, K and V each): the head dimension, or 1.
        features: inputs of the second layer that are one unit: of a convolution, one for each tap.
    """

    site: Part
    first: Linear
    second: Linear | None = None
    units: int = 0
    rows: int = 1
    features: int = 1

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def prune(self) -> str:
        """The pass that removes units."""
        return "heads" if isinstance(self.site, Attention) else "ffn"

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its layers in order of computation."""
        return (self.first,) if self.second is None else (self.first, self.second)


def block_of(site: Part) -> Block:
    """The block view of a site."""
    if isinstance(site, Linear):
        return Block(site, site)
    if isinstance(site, Attention):
        return Block(site, site.qkv, site.out, site.heads, site.head_dim, site.head_dim)
    return Block(site, site.up, site.down, site.up.out_features, 1, site.down.taps)


def blocks_of(section: Section) -> tuple[Block, ...]:
    """The blocks of a section in order of computation."""
    return tuple(block_of(part) for part in section.parts)


@dataclass(frozen=True)
class Decision:
    """What is done to one block.

    Attributes:
        keep: units kept; None for all.
        first, second: formats of the two layers; of a layer by itself, ``first``.
        core: the passes that change what is no layer, joined by "+", "" for none: ``int8_attention``
            for the products of attention, ``approximate`` for its exponentials or for the activation
            of an FFN, ``norm`` for the norm behind either.
    """

    keep: int | None = None
    first: Format = DENSE
    second: Format = DENSE
    core: str = ""

    def choices(self, block: Block) -> tuple[Choice, ...]:
        """The decision as choices of passes at sites."""
        found: list[Choice] = []
        if self.keep is not None:
            found.append(Choice(block.name, block.prune, {"keep": self.keep}))
        found += [Choice(block.name, name) for name in cores_of(self.core)]
        for linear, form in zip(block.linears, (self.first, self.second), strict=False):
            if form != DENSE:
                found.append(Choice(linear.name, form.name, form.setting))
        return tuple(found)

    @property
    def family(self) -> str:
        """What it has in common with other decisions; their errors are corrected together."""
        parts = {f.family for f in (self.first, self.second) if f != DENSE}
        kept = ["pruned"] if self.keep is not None else []
        core = cores_of(self.core)
        return " ".join([*kept, *core, *sorted(parts)]) or "dense"


def cores_of(core: str) -> list[str]:
    """The passes that a ``Decision.core`` names."""
    return core.split("+") if core else []


def decision_of(candidate: Candidate, block: Block, target: Target) -> Decision:
    """What a candidate decides for a block."""
    named = {c.pass_name for c in candidate if c.site == block.name}
    cores = [name for name in CORES if name in named]
    kept = [
        c.setting["keep"] for c in candidate if (c.site, c.pass_name) == (block.name, block.prune)
    ]
    return Decision(
        keep=int(kept[0]) if kept else None,
        first=format_of(candidate, block.first.name, target),
        second=DENSE if block.second is None else format_of(candidate, block.second.name, target),
        core="+".join(cores),
    )


def tokens_kept(candidate: Candidate, layer: str) -> int | None:
    """Tokens that a candidate leaves at the input of a layer; None if it merges none there."""
    for choice in candidate:
        if (choice.site, choice.pass_name) == (layer, tokens.NAME):
            return int(choice.setting["keep"])
    return None


def dropped(candidate: Candidate, sites: Sites) -> set[str]:
    """Names of the layers that a candidate removes."""
    names = {layer.name for layer in sites.layers}
    return {c.site for c in candidate if c.pass_name == DROP and c.site in names}
