"""Shorter sequences: how many tokens layers may run on, and what their decisions cost there.

A decision that is not worth it on the full sequence is not looked at on shorter ones. The others are
lowered and measured again for each length: their latency is not proportional to the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf

from codesign.loop.blocks import Decision, blocks_of
from codesign.loop.costs import (
    BlockKernels,
    Seconds,
    block_kernels,
    layer_model,
    shared_seconds,
)
from codesign.loop.offers import Offers
from codesign.loop.sensitivity import Sensitivities, tokens_candidate
from codesign.loop.tables import Space
from codesign.search import Group, Option, Tables
from codesign.search import Layer as LayerTable
from passes.find_sites import find_sites
from passes.model import Model
from passes.sites import Section, encoder_layers
from passes.tokens import NAME, keep_tokens
from targets.target import Target

FAMILY = NAME
"""Errors of all lengths at a layer are corrected together."""


@dataclass(frozen=True)
class ShortLayer:
    """A layer on a shorter sequence.

    Attributes:
        untouched: its kernels as it is.
        blocks: kernels of the decisions that are worth it, by name of block.
    """

    untouched: Mapping[str, int]
    blocks: Mapping[str, BlockKernels]


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
    """Lower what is left of each layer on each shorter length; the kernels go into the space's book.

    Args:
        model: canonical.
        space: what may be decided, with the lengths that are offered.
        tables: of the full sequence, slow options vetoed.
        target: what for.
    """
    layers = encoder_layers(space.layers)
    worth = worthwhile(space, tables)
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
            own = {b.name: worth[b.name] for b in blocks_of(layer)}
            key = (*sorted(counts.items()), *own.values())
            if key not in same:
                kernels = {
                    b.name: block_kernels(cut, b, own[b.name], target, space.book)
                    for b in blocks_of(layer)
                }
                same[key] = ShortLayer(counts, kernels)
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
    """For each group of a layer the seconds of its options on one length; infinite where vetoed."""
    for group in table.groups:
        decisions = space.offers[group.name].decisions()
        pairs = list(zip(decisions, group.options, strict=True))
        kernels = {
            d: short.blocks[group.name].of(d) for d, o in pairs if not o.veto or d == Decision()
        }
        takes = shared_seconds(kernels, seconds)
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
