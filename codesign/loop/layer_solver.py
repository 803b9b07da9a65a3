"""Solves one layer of a candidate on the activations that really reach it.

The order within a layer is that of computation, so that each weight is fitted to inputs that all
choices before it have already changed:

1. which units of a block stay (heads, neurons), by the second layer's inputs in the dense model;
2. the first layer in its format, rows of removed units gone;
3. the second layer, refitted on the inputs kept, in its format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from codesign.loop.blocks import Block, Decision, cores_of
from codesign.simulate import Simulator, Stream, Variant
from passes import int8_attention, norm
from passes.formats import DENSE, EXACT, OTHER, ROWS, Format, Seen, Solved
from passes.model import Model
from passes.norm import Frozen
from passes.sites import Attention, Linear
from passes.solve.gram import Gram
from passes.solve.kept import on_kept_inputs
from passes.solve.site import Affine, solve_ffn, solve_heads, solve_linear

Index = NDArray[np.intp]


@dataclass(frozen=True)
class SolvedBlock:
    """One block solved, in the dense domain and in the compact one.

    Attributes:
        block: what was solved; its decision in ``decision``.
        units: numbers of the units kept; None for all.
        first, second: its layers over kept rows and kept inputs only.
        change: the effective weights in the dense shapes, for the simulator.
        frozen: what the norm behind it becomes, where it is frozen.
    """

    block: Block
    decision: Decision
    units: Index | None
    first: Solved
    second: Solved | None
    change: Variant
    frozen: Frozen | None = None


@dataclass
class _Rows:
    """Which rows of the first layer and inputs of the second one stay."""

    first: Index
    second: Index


@dataclass(frozen=True)
class LayerSolver:
    """Solves blocks of one model over one simulator."""

    model: Model
    simulator: Simulator
    grams: dict[tuple[str, int], Gram] = field(default_factory=dict)
    kept: dict[tuple[str, int], Index] = field(default_factory=dict)
    norms: dict[str, Frozen] = field(default_factory=dict)

    def solve(
        self, stream: Stream, block: Block, decision: Decision, before: Variant
    ) -> SolvedBlock:
        """Solve a block of the segment that ``stream`` enters; ``before`` is done to it already."""
        change, units = before, None
        if decision.keep is not None and decision.keep < block.units:
            units = self.units(block, decision.keep)
        rows = rows_of(block, units)
        solved_first = self._first(stream, block, decision.first, rows.first, change)
        change = merged(change, effective(block.first, solved_first, rows.first, None))
        change = merged(change, self.changed_core(block, decision.core))
        if block.second is None:
            return SolvedBlock(block, decision, units, solved_first, None, change)
        gram = self.gram(stream, block.second.name, change)
        layer, kept_gram = on_kept_inputs(self.affine(block.second), gram, rows.second)
        solved_second = solve_linear(layer, kept_gram, decision.second)
        change = merged(change, effective(block.second, solved_second, None, rows.second))
        frozen = self.frozen(block) if norm.NAME in cores_of(decision.core) else None
        return SolvedBlock(block, decision, units, solved_first, solved_second, change, frozen)

    def changed_core(self, block: Block, core: str) -> Variant:
        """What is no layer of a block as the passes of ``core`` compute it, for the simulator."""
        seen: dict[str, Seen | Frozen] = {}
        for name in cores_of(core):
            if name == norm.NAME:
                assert not isinstance(block.site, Linear)
                assert block.site.norm is not None
                seen[block.site.norm.name] = self.frozen(block)
            else:
                seen[block.name] = ROWS if name == int8_attention.NAME else OTHER
        return Variant(seen=seen)

    def frozen(self, block: Block) -> Frozen:
        """What the norm behind a block becomes, by what it reads in the dense model."""
        if block.name not in self.norms:
            assert not isinstance(block.site, Linear)
            assert block.site.norm is not None
            assert block.second is not None
            self.norms[block.name] = self.simulator.frozen(block.second.name, block.site.norm)
        return self.norms[block.name]

    def _first(
        self, stream: Stream, block: Block, form: Format, rows: Index, change: Variant
    ) -> Solved:
        layer = self.affine(block.first)
        bias = None if layer.bias is None else layer.bias[rows]
        kept = Affine(layer.weight[rows], bias)
        if form == DENSE and stream.dense and change.is_nothing:
            return Solved(form, np.asarray(kept.weight, np.float32), kept.bias)
        return solve_linear(kept, self.gram(stream, block.first.name, change), form)

    def units(self, block: Block, keep: int) -> Index:
        """Which units stay, judged by the activations of the dense model: once for all candidates."""
        if (block.name, keep) not in self.kept:
            assert block.second is not None
            segment = self.simulator.segment_of(block.second.name)
            gram = self.gram(self.simulator.dense_stream(segment), block.second.name, Variant())
            first, second = self.affine(block.first), self.affine(block.second)
            self.kept[block.name, keep] = kept_units(block, first, second, gram, keep)
        return self.kept[block.name, keep]

    def gram(self, stream: Stream, linear: str, change: Variant) -> Gram:
        """The Gram of a site; those of the untouched model are kept."""
        if not (stream.dense and change.is_nothing):
            return self.simulator.grams(stream, linear, change)
        key = (linear, len(stream.samples))
        if key not in self.grams:
            self.grams[key] = self.simulator.grams(stream, linear, change)
        return self.grams[key]

    def affine(self, linear: Linear) -> Affine:
        """The dense layer."""
        weights = self.model.weights
        bias = None if linear.bias is None else np.asarray(weights[linear.bias], np.float32)
        weight = np.asarray(weights[linear.weight], np.float32)
        return Affine(weight.reshape(len(weight), -1), bias)


def kept_units(block: Block, first: Affine, second: Affine, gram: Gram, keep: int) -> Index:
    """Numbers of the heads or neurons that stay."""
    if isinstance(block.site, Attention):
        return solve_heads(first, second, gram, block.units, block.rows, keep).keep
    return solve_ffn(first, second, gram, keep, block.features).keep


def rows_of(block: Block, units: Index | None) -> _Rows:
    """Rows of the first layer and inputs of the second one that belong to the units kept."""
    if units is None:
        inputs = 0 if block.second is None else block.second.in_features
        return _Rows(np.arange(block.first.out_features), np.arange(inputs))
    step = block.units * block.rows
    parts = block.first.out_features // step  # 3 for QKV, 1 for FFN
    rows = _members(units, block.rows)
    features = _members(units, block.features)
    return _Rows(np.concatenate([rows + p * step for p in range(parts)]), features)


def _members(units: Index, size: int) -> Index:
    """The numbers of what makes up each of the units, ``size`` to a unit."""
    return (units[:, None] * size + np.arange(size)).ravel()


def effective(linear: Linear, solved: Solved, rows: Index | None, columns: Index | None) -> Variant:
    """A solved layer as the simulator takes it: dense shapes, zeros where removed."""
    wide = np.zeros((linear.out_features, linear.in_features), np.float32)
    r = np.arange(linear.out_features) if rows is None else rows
    c = np.arange(linear.in_features) if columns is None else columns
    wide[np.ix_(r, c)] = solved.weight
    weights: dict[str, NDArray[np.generic]] = {linear.weight: wide.reshape(linear.shape)}
    if linear.bias is not None and solved.bias is not None:
        bias = np.zeros(linear.out_features, np.float32)
        bias[r] = solved.bias
        weights[linear.bias] = bias
    channels = c[:: linear.taps] // linear.taps
    seen = solved.seen.among(channels, linear.in_features // linear.taps)
    return Variant(weights, {} if seen == EXACT else {linear.name: seen})


def merged(a: Variant, b: Variant) -> Variant:
    """Both changes of one segment; ``b`` wins where they touch the same weight."""
    weights: Mapping[str, NDArray[np.generic]] = {**a.weights, **b.weights}
    return replace(a, weights=weights, seen={**a.seen, **b.seen})
