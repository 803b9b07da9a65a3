"""What may be decided for each block on one target: units to keep and formats, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from codesign.loop.blocks import Block, Decision, blocks_of
from codesign.loop.formats import formats_for
from passes import approximate, ffn, heads, int8_attention, norm
from passes.formats import DENSE, Format
from passes.report import Refusal
from passes.sites import FFN, Attention, Section
from targets.target import Target

MOST_COUNTS = 6
"""Widths, or numbers of heads, offered for one block: each costs kernels to measure."""


@dataclass(frozen=True)
class Offers:
    """The decisions that a block can get.

    Attributes:
        keeps: units to keep, all (None) first.
        first, second: formats of the two layers, dense first.
        core: passes that may change what lies between or behind them, alone or joined by "+", "" for
            none first.
        refusals: what is not offered, and why.
    """

    keeps: tuple[int | None, ...]
    first: tuple[Format, ...]
    second: tuple[Format, ...]
    refusals: tuple[Refusal, ...]
    core: tuple[str, ...] = ("",)

    def decisions(self) -> list[Decision]:
        """Every combination, the untouched block first."""
        return [Decision(*d) for d in product(self.keeps, self.first, self.second, self.core)]


def all_offers(
    sections: Sequence[Section], target: Target, enabled: tuple[str, ...]
) -> dict[str, Offers]:
    """What the passes offer for each block of a model, by its name."""
    blocks = [block for section in sections for block in blocks_of(section)]
    return {block.name: offers_for(block, target, enabled) for block in blocks}


def offers_for(block: Block, target: Target, enabled: tuple[str, ...]) -> Offers:
    """What the passes offer for a block.

    Args:
        block: any part of a section.
        target: decides which widths and formats gain.
        enabled: names of the passes to use, as in `codesign.config.PASSES`.
    """
    refusals: list[Refusal] = []
    keeps: list[int | None] = [None]
    if block.second is not None and block.prune in enabled:
        counts, refused = _counts(block, target)
        keeps += counts
        refusals += refused
    first, refused_first = formats_for(block.first, target, enabled)
    second: list[Format] = [DENSE]
    refusals += refused_first
    if block.second is not None:
        second, refused_second = formats_for(block.second, target, enabled)
        refusals += refused_second
    cores, refused_cores = _cores(block, target, enabled)
    refusals += refused_cores
    return Offers(tuple(keeps), tuple(first), tuple(second), tuple(refusals), tuple(cores))


def _cores(
    block: Block, target: Target, enabled: tuple[str, ...]
) -> tuple[list[str], list[Refusal]]:
    """Passes for what lies between the layers, "" first."""
    cores = [""]
    refusals: list[Refusal] = []
    if isinstance(block.site, Attention) and int8_attention.NAME in enabled:
        settings, refusals = int8_attention.choices(block.site, target)
        cores += [int8_attention.NAME for _ in settings]
    if isinstance(block.site, Attention | FFN) and approximate.NAME in enabled:
        settings, refused = approximate.choices(block.site, target)
        cores += [approximate.NAME for _ in settings]
        refusals = [*refusals, *refused]
    if isinstance(block.site, Attention | FFN) and norm.NAME in enabled:
        frozen, refused = norm.choices(block.site, target)
        cores += ["+".join(filter(None, (core, norm.NAME))) for _ in frozen for core in cores]
        refusals = [*refusals, *refused]
    return cores, refusals


def _counts(block: Block, target: Target) -> tuple[list[int], list[Refusal]]:
    """Units to keep, at most ``MOST_COUNTS`` of them, evenly spread."""
    counts: list[int] = []
    refusals: list[Refusal] = []
    if isinstance(block.site, Attention):
        settings, refusals = heads.choices(block.site, target)
        counts = [s["heads"] for s in settings]
    elif isinstance(block.site, FFN):
        settings, refusals = ffn.choices(block.site, target)
        counts = [s["width"] for s in settings]
    if len(counts) > MOST_COUNTS:
        picks = [round(i * (len(counts) - 1) / (MOST_COUNTS - 1)) for i in range(MOST_COUNTS)]
        counts = [counts[i] for i in picks]
    return counts, refusals
