"""Shorter sequences: how many tokens layers may run on, and what their decisions cost there.

A decision that is not worth it on the full sequence is not looked at on shorter ones. A few of the others,
spread over what they take and lose, are lowered and measured again for each length: their latency is not
proportional to the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf, log

from codesign.loop.blocks import Block, Decision, blocks_of
from codesign.loop.costs import KernelBook, Seconds, layer_model, shared_seconds, with_decision
from codesign.loop.offers import Offers
from codesign.loop.sensitivity import Sensitivities, tokens_candidate
from codesign.loop.tables import Space
from codesign.pareto import spread
from codesign.search import Group, Option, Tables
from codesign.search import Layer as LayerTable
from passes.find_sites import find_sites
from passes.model import Model
from passes.sites import Section, encoder_layers
from passes.tokens import NAME, keep_tokens
from targets.target import Target

FAMILY = NAME
"""Errors of all lengths at a layer are corrected together."""

MOST_DECISIONS = 10
"""Decisions of a block that are looked at on each shorter sequence: each costs kernels to measure there."""

Changes = Mapping[Decision, Mapping[str, int]]
"""Kernels of decisions against the untouched layer; counts may be negative."""


@dataclass(frozen=True)
class ShortLayer:
    """A layer on a shorter sequence.

    Attributes:
        untouched: its kernels as it is.
        blocks: what the decisions that are looked at change, by name of block.
    """

    untouched: Mapping[str, int]
    blocks: Mapping[str, Changes]


@dataclass(frozen=True)
class Lengths:
    """What shorter sequences lead to.

    Attributes:
        layers: for each shorter length the layers in order.
        merging: (number of a length, number of a shorter one) -> kernels between them.
    """

    layers: tuple[tuple[ShortLayer, ...], ...]
    merging: Mapping[tuple[int, int], Mapping[str, int]]


def lengths_of(model: Model, space: Space, tables: Tables, target: Target) -> Lengths:
    """Lower a few decisions of each layer on each shorter length; the kernels go into the space's book.

    Args:
        model: canonical.
        space: what may be decided, with the lengths that are offered.
        tables: of the full sequence, slow options vetoed.
        target: what for.
    """
    layers = encoder_layers(space.layers)
    few = looked_at(space, tables)
    found: list[tuple[ShortLayer, ...]] = []
    alone = {0: layer_model(model, layers[0])}
    same: dict[tuple[object, ...], ShortLayer] = {}
    for number, length in enumerate(space.lengths[1:], 1):
        short = keep_tokens(model, layers, {layers[0].name: length}, target)[0]
        models = [layer_model(short, layer) for layer in find_sites(short).layers]
        alone[number] = models[0]
        row = []
        for layer, cut in zip(layers, models, strict=True):
            counts = space.book.count(cut, target)
            own = {b.name: few[b.name] for b in blocks_of(layer)}
            key = (*sorted(counts.items()), *own.values())
            if key not in same:
                changes = {
                    b.name: _changes(cut, b, own[b.name], counts, target, space.book)
                    for b in blocks_of(layer)
                }
                same[key] = ShortLayer(counts, changes)
            parts = same[key].blocks.values()
            row.append(ShortLayer(counts, dict(zip(own, parts, strict=True))))
        found.append(tuple(row))
    merging = {}
    for a, b in combinations(range(len(space.lengths)), 2):
        (layer,) = encoder_layers(find_sites(alone[a]).layers)
        merged = keep_tokens(alone[a], [layer], {layer.name: space.lengths[b]}, target)[0]
        merging[a, b] = space.book.count(merged, target)
        merging[a, b].subtract(found[b - 1][0].untouched)
    return Lengths(tuple(found), merging)


def looked_at(space: Space, tables: Tables) -> dict[str, tuple[Decision, ...]]:
    """The decisions of each block to look at on shorter sequences, the untouched block first.

    Blocks of one shape get the same ones, so that they share the kernels: of those that are not vetoed
    in half of the layers, the ones farthest from each other in latency and error.
    """
    shapes: dict[int, list[Group]] = {}
    for group in tables.groups:
        shapes.setdefault(id(space.kernels[group.name]), []).append(group)
    found: dict[str, tuple[Decision, ...]] = {}
    for groups in shapes.values():
        decisions = space.offers[groups[0].name].decisions()
        places: dict[Decision, tuple[float, float]] = {}
        columns = zip(*(group.options for group in groups), strict=True)
        for decision, options in zip(decisions, columns, strict=True):
            errors = [o.error for o in options if not o.veto]
            if 2 * len(errors) >= len(groups) and decision != Decision():
                lost = max(sum(errors) / len(errors), 1e-12)
                places[decision] = options[0].seconds, -log(lost)
        picked = spread(list(places.values()), MOST_DECISIONS)
        few = (Decision(), *(list(places)[i] for i in sorted(picked)))
        found |= {group.name: few for group in groups}
    return found


def _changes(
    cut: Model,
    block: Block,
    decisions: Sequence[Decision],
    untouched: Mapping[str, int],
    target: Target,
    book: KernelBook,
) -> Changes:
    """The kernels of a layer with each of the decisions for a block, less those of it as it is."""
    found: dict[Decision, Mapping[str, int]] = {}
    for decision in decisions:
        made = cut if decision == Decision() else with_decision(cut, block, decision, target)
        counts = book.count(made, target)
        counts.subtract(untouched)
        found[decision] = counts
    return found


def worthwhile(space: Space, tables: Tables) -> dict[str, Offers]:
    """What is left to offer to each block when its vetoed options are gone."""
    found: dict[str, Offers] = {}
    for group in tables.groups:
        offers = space.offers[group.name]
        pairs = zip(offers.decisions(), group.options, strict=True)
        kept = [Decision(), *(d for d, option in pairs if not option.veto)]
        found[group.name] = replace(
            offers,
            keeps=tuple(k for k in offers.keeps if any(d.keep == k for d in kept)),
            first=tuple(f for f in offers.first if any(d.first == f for d in kept)),
            second=tuple(f for f in offers.second if any(d.second == f for d in kept)),
            core=tuple(c for c in offers.core if any(d.core == c for d in kept)),
            refusals=(),
        )
    return found


def with_lengths(
    tables: Tables,
    space: Space,
    lengths: Lengths,
    sensitivities: Sensitivities,
    seconds: Seconds,
) -> Tables:
    """The tables with what every option takes on shorter sequences, and the choice of lengths."""
    merging = {pair: seconds(kernels) for pair, kernels in lengths.merging.items()}
    layers = []
    for i, (layer, table) in enumerate(zip(space.layers, tables.layers, strict=True)):
        shorts = [row[i] for row in lengths.layers]
        columns = [list(_seconds(table, space, short, seconds)) for short in shorts]
        groups = [
            replace(
                group,
                options=tuple(
                    replace(option, shorter=tuple(column[g][o] for column in columns))
                    for o, option in enumerate(group.options)
                ),
            )
            for g, group in enumerate(table.groups)
        ]
        base = [
            seconds(short.untouched) - sum(takes[0] for takes in column)
            for short, column in zip(shorts, columns, strict=True)
        ]
        first = _shortening(layer, space.lengths, sensitivities, merging)
        layers.append(replace(table, groups=(first, *groups), shorter=tuple(base)))
    return replace(tables, layers=tuple(layers), lengths=space.lengths)


def _seconds(
    table: LayerTable, space: Space, short: ShortLayer, seconds: Seconds
) -> Iterator[list[float]]:
    """For each group of a layer the seconds of its options on one length; infinite where not looked at."""
    for group in table.groups:
        decisions = space.offers[group.name].decisions()
        takes = shared_seconds(short.blocks[group.name], seconds)
        yield [takes.get(decision, inf) for decision in decisions]


def _shortening(
    layer: Section,
    lengths: Sequence[int],
    sensitivities: Sensitivities,
    merging: Mapping[tuple[int, int], float],
) -> Group:
    """The choice of how many tokens go on from the input of a layer."""
    options = [Option((), "dense", 0.0, 0.0, shorter=(0.0,) * (len(lengths) - 1))]
    for i, length in enumerate(lengths[1:], 1):
        candidate = tokens_candidate(layer, length)
        takes = [merging.get((a, i), inf) for a in range(len(lengths))]
        error = sensitivities.values[candidate.key]
        options.append(Option(candidate.choices, FAMILY, takes[0], error, shorter=tuple(takes[1:])))
    return Group(f"{layer.name}.{NAME}", tuple(options), shortens=True)
