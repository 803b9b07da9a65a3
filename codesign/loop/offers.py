"""What may be decided for each block on one target: units to keep and formats, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from codesign.loop.blocks import DENSE, INT8_CORE, Block, Decision
from passes import ffn, heads, int8, int8_attention, sparse
from passes.formats import Format
from passes.int8 import Int8Config
from passes.report import Refusal
from passes.sites import Attention, Linear
from passes.sparse import SparseConfig
from targets.target import Target

MOST_COUNTS = 6
"""Widths, or numbers of heads, offered for one block: each costs kernels to measure."""

INT8 = Int8Config(densities=(1.0, 0.75, 0.5, 0.25))
SPARSE = SparseConfig(densities=(0.5,))
"""Where int8 exists, float32 sparsity is offered thinly: it rarely wins there."""


@dataclass(frozen=True)
class Offers:
    """The decisions that a block can get.

    Attributes:
        keeps: units to keep, all (None) first.
        first, second: formats of the two layers, dense first.
        core: formats of what lies between them, dense first.
        refusals: what is not offered, and why.
    """

    keeps: tuple[int | None, ...]
    first: tuple[Format, ...]
    second: tuple[Format, ...]
    refusals: tuple[Refusal, ...]
    core: tuple[Format, ...] = (DENSE,)

    def decisions(self) -> list[Decision]:
        """Every combination, the untouched block first."""
        return [Decision(*d) for d in product(self.keeps, self.first, self.second, self.core)]


def offers_for(block: Block, target: Target, enabled: tuple[str, ...]) -> Offers:
    """What the passes offer for a block.

    Args:
        block: attention or FFN.
        target: decides which widths and formats gain.
        enabled: names of the passes to use: ``ffn``, ``heads``, ``int8``, ``int8_attention``,
            ``sparse``.
    """
    refusals: list[Refusal] = []
    keeps: list[int | None] = [None]
    if block.prune in enabled:
        counts, refused = _counts(block, target)
        keeps += counts
        refusals += refused
    first, refused_first = _formats(block.first, target, enabled)
    second, refused_second = _formats(block.second, target, enabled)
    refusals += [*refused_first, *refused_second]
    core = [DENSE]
    if isinstance(block.site, Attention) and int8_attention.NAME in enabled:
        settings, refused = int8_attention.choices(block.site, target)
        core += [INT8_CORE for _ in settings]
        refusals += refused
    return Offers(tuple(keeps), tuple(first), tuple(second), tuple(refusals), tuple(core))


def _counts(block: Block, target: Target) -> tuple[list[int], list[Refusal]]:
    """Units to keep, at most ``MOST_COUNTS`` of them, evenly spread."""
    if isinstance(block.site, Attention):
        settings, refusals = heads.choices(block.site, target)
        counts = [s["heads"] for s in settings]
    else:
        settings, refusals = ffn.choices(block.site, target)
        counts = [s["width"] for s in settings]
    if len(counts) > MOST_COUNTS:
        picks = [round(i * (len(counts) - 1) / (MOST_COUNTS - 1)) for i in range(MOST_COUNTS)]
        counts = [counts[i] for i in picks]
    return counts, refusals


def _formats(
    linear: Linear, target: Target, enabled: tuple[str, ...]
) -> tuple[list[Format], list[Refusal]]:
    """Formats of one layer, float32 and dense first."""
    found, refusals = [DENSE], []
    if "int8" in enabled:
        densities = INT8.densities if "sparse" in enabled else (1.0,)
        settings, refused = int8.choices(linear, target, replace(INT8, densities=densities))
        found += [int8.form(s, target) for s in settings]
        refusals += refused
    if "sparse" in enabled:
        settings, refused = sparse.choices(linear, target, SPARSE)
        found += [sparse.form(s, target) for s in settings]
        refusals += refused
    return found, refusals
