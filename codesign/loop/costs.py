"""What each decision costs: the kernels it leads to, found by really lowering the block that has it.

A layer is cut out, rewritten and lowered once for each number of units and each format of either
layer; the kernels of a combination follow from the differences, since the two layers of a block
share no kernel. So a choice that breaks a fusion costs the kernels that it really leads to. Where a chain
spans both (codes for the second layer made behind the first), that is an estimate: see `combinations`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np

from codesign.fusion import Planner, Unit
from codesign.loop.blocks import Block, Decision
from codesign.loop.layer_solver import Index, rows_of
from codesign.loop.offers import Offers
from codesign.loop.rewrite import rewrite_block
from codesign.simulate.graph import Dataflow
from codesign.simulate.instrument import as_model
from passes.formats import DENSE, Format, Solved
from passes.model import Model
from passes.norm import Frozen
from passes.report import Refusal
from passes.sites import Linear, Section
from targets.target import Target

Counts = Mapping[str, int]
"""Hash of a kernel or a chain -> calls; differences may be negative."""

Seconds = Callable[[Counts], float]
"""Measured time of a multiset of kernels."""

_Counts = dict[tuple[int | None, Format | str], Counter[str]]
"""By units kept and what one part is."""


@dataclass
class KernelBook:
    """All kernels and chains met so far, by hash.

    Attributes:
        fuse: whether chains may be partitioned in other ways than relax's.
    """

    fuse: bool = False
    known: dict[str, Unit] = field(default_factory=dict)
    _planner: Planner | None = None

    @property
    def refusals(self) -> list[Refusal]:
        """What neighbouring operators are never one kernel, and why."""
        return [] if self._planner is None else list(self._planner.refusals)

    def count(self, model: Model, target: Target) -> Counter[str]:
        """The kernels and chains of a canonical (or rewritten) model."""
        if self._planner is None or self._planner.target != target:
            self._planner = Planner(target, self.fuse)
        found = self._planner.units(model)
        for unit in found:
            self.known.setdefault(unit.hash, unit)
        return Counter({u.hash: u.count for u in found})


@dataclass(frozen=True)
class BlockKernels:
    """Kernels of one block for every decision, relative to the untouched layer.

    Attributes:
        untouched: of the layer as it is.
        kept: with so many units.
        first, second, core: with so many units, and one part in a format or by a pass.
        whole: of combinations that were lowered as they are.
    """

    untouched: Counter[str]
    kept: Mapping[int | None, Counter[str]]
    first: _Counts
    second: _Counts
    core: _Counts
    whole: dict[Decision, Counter[str]] = field(default_factory=dict)

    def of(self, decision: Decision) -> Counter[str]:
        """Variant of kernel counts against the untouched layer; may be negative."""
        if decision in self.whole:
            total = Counter(self.whole[decision])
            total.subtract(self.untouched)
            return total
        base = self.kept[decision.keep]
        total = Counter()
        for part, sign in (
            (self.first[decision.keep, decision.first], 1),
            (self.second[decision.keep, decision.second], 1),
            (self.core[decision.keep, decision.core], 1),
            (base, -2),
            (self.untouched, -1),
        ):
            for kernel, n in part.items():
                total[kernel] += sign * n
        return total


def shared_seconds(
    kernels: Mapping[Decision, Mapping[str, int]], seconds: Seconds
) -> dict[Decision, float]:
    """What each decision of a block takes, all kernels that some decision does without included.

    Args:
        kernels: of each decision, against the untouched layer.
        seconds: measured time of a multiset of kernels; infinite if one could not be measured.
    """
    replaced: Counter[str] = Counter()
    for change in kernels.values():
        replaced |= Counter({kernel: -n for kernel, n in change.items() if n < 0})
    own = seconds(replaced)
    takes = {decision: own + seconds(change) for decision, change in kernels.items()}
    return {d: inf if t != t else max(t, 0.0) for d, t in takes.items()}


def layer_model(model: Model, layer: Section) -> Model:
    """The section as a model of its own."""
    flow = Dataflow(model)
    return as_model(flow, flow.slice((layer.input,), (layer.output,)))


def block_kernels(
    alone: Model, block: Block, offers: Offers, target: Target, book: KernelBook
) -> BlockKernels:
    """Lower a layer with each decision of one of its blocks.

    Args:
        alone: the layer as a model of its own.
        block: one of its blocks.
        offers: what to lower.
        target: what for.
        book: gets the kernels.
    """
    untouched = book.count(alone, target)
    kept: dict[int | None, Counter[str]] = {}
    first, second, core = _Counts(), _Counts(), _Counts()
    for keep in offers.keeps:
        kept[keep] = (
            untouched
            if keep is None
            else book.count(with_decision(alone, block, Decision(keep), target), target)
        )
        parts: list[tuple[_Counts, Format | str, Decision]] = []
        parts += [(first, f, Decision(keep, first=f)) for f in offers.first]
        parts += [(second, f, Decision(keep, second=f)) for f in offers.second]
        parts += [(core, c, Decision(keep, core=c)) for c in offers.core]
        for found, part, decision in parts:
            plain = part in (DENSE, "")
            found[keep, part] = (
                kept[keep]
                if plain
                else book.count(with_decision(alone, block, decision, target), target)
            )
    return BlockKernels(untouched, kept, first, second, core)


def with_decision(model: Model, block: Block, decision: Decision, target: Target) -> Model:
    """The model with a decision for one block; its weights do not matter here, only their shapes."""
    units: Index | None = None if decision.keep is None else np.arange(decision.keep)
    rows = rows_of(block, units)
    first = placeholder(block.first, decision.first, len(rows.first), block.first.in_features)
    second = None
    if block.second is not None:
        shape = block.second.out_features, len(rows.second)
        second = placeholder(block.second, decision.second, *shape)
    norm = None if isinstance(block.site, Linear) else block.site.norm
    frozen = None if norm is None else Frozen((1.0,) * norm.channels, (0.0,) * norm.channels)
    return rewrite_block(model, block, units, first, second, target, decision.core, frozen)


def placeholder(linear: Linear, form: Format, rows: int, columns: int) -> Solved:
    """A layer of the right shape and structure, all zeros."""
    return Solved(
        form,
        np.zeros((rows, columns), np.float32),
        None if linear.bias is None else np.zeros(rows, np.float32),
        form.placeholder(rows, columns),
    )
