"""The tables that the search works on, filled with what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf

from codesign.loop.blocks import DROP, Block, blocks_of
from codesign.loop.costs import (
    BlockKernels,
    KernelBook,
    Seconds,
    block_kernels,
    layer_model,
    shared_seconds,
)
from codesign.loop.offers import Offers, all_offers
from codesign.loop.sensitivity import Sensitivities, drop_candidate
from codesign.loop.sizes import Sizes
from codesign.search import Group, Option, Tables, veto_slow
from codesign.search import Layer as LayerTable
from passes import fuse, tokens
from passes.model import Model
from passes.report import Refusal
from passes.sites import Section, Sites, encoder_layers
from targets.target import Target


@dataclass(frozen=True)
class Space:
    """All that may be decided, with the kernels that each decision leads to.

    Attributes:
        offers, kernels: by name of block.
        untouched: kernels of each layer as it is, by name of layer.
        dense: kernels of the whole model as it is.
        book: every kernel that any decision leads to.
        droppable: whether layers may be left out.
        lengths: tokens that layers may run on, all first; empty if there is no choice.
        no_lengths: why there are not more.
    """

    layers: tuple[Section, ...]
    offers: Mapping[str, Offers]
    kernels: Mapping[str, BlockKernels]
    untouched: Mapping[str, Mapping[str, int]]
    dense: Mapping[str, int]
    book: KernelBook
    droppable: bool
    lengths: tuple[int, ...] = ()
    no_lengths: tuple[Refusal, ...] = ()

    @property
    def refusals(self) -> list[Refusal]:
        """What the passes did not offer, and why."""
        offered = [r for o in self.offers.values() for r in o.refusals]
        return [*self.no_lengths, *offered, *self.book.refusals]


def space_of(
    model: Model,
    sites: Sites,
    target: Target,
    enabled: tuple[str, ...],
    offers: Mapping[str, Offers] | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Space:
    """Lower every decision; layers of the same kernels share the work.

    Args:
        model: canonical.
        sites: its sites.
        target: what for.
        enabled: names of the passes to use.
        offers: what to lower, by name of block; by default all that the passes offer.
        step: told the name of each layer.
    """
    book = KernelBook(fuse.NAME in enabled)
    offers = all_offers(sites.layers, target, enabled) if offers is None else offers
    dense = book.count(model, target)
    found: dict[str, BlockKernels] = {}
    untouched: dict[str, Mapping[str, int]] = {}
    same: dict[tuple[object, ...], dict[int, BlockKernels]] = {}
    for layer in sites.layers:
        alone = layer_model(model, layer)
        untouched[layer.name] = counts = book.count(alone, target)
        blocks = blocks_of(layer)
        shape = (*sorted(counts.items()), *(_shape(offers[b.name]) for b in blocks))
        if shape not in same:
            same[shape] = {
                i: block_kernels(alone, b, offers[b.name], target, book)
                for i, b in enumerate(blocks)
            }
        for index, block in enumerate(blocks):
            found[block.name] = same[shape][index]
        step(layer.name)
    lengths, refused = _lengths(model, sites) if tokens.NAME in enabled else ((), ())
    return Space(
        sites.layers, offers, found, untouched, dense, book, DROP in enabled, lengths, refused
    )


def _lengths(model: Model, sites: Sites) -> tuple[tuple[int, ...], tuple[Refusal, ...]]:
    """Lengths of the sequence that layers may run on, the full one first, and what is refused."""
    layers = encoder_layers(sites.layers)
    settings, refused = tokens.choices(model, layers)
    if not settings:
        return (), tuple(refused)
    return (tokens.length(model, layers), *(s["keep"] for s in settings)), tuple(refused)


def _shape(offers: Offers) -> tuple[object, ...]:
    return (offers.keeps, offers.first, offers.second, offers.core)


def tables_of(
    space: Space, sensitivities: Sensitivities, seconds: Seconds, sizes: Sizes | None = None
) -> Tables:
    """The search's tables, options vetoed that gain nothing.

    Args:
        space: what may be decided.
        sensitivities: error of each single decision.
        seconds: measured time of a multiset of kernels.
        sizes: bytes of each decision, which then count as a gain too; None if nobody asks for size.
    """
    total, layers = seconds(space.dense), []
    for layer in space.layers:
        own = seconds(space.untouched[layer.name])
        total -= own
        groups = tuple(_group(b, space, sensitivities, seconds, sizes) for b in blocks_of(layer))
        drop = None
        if space.droppable and layer.droppable:
            choices = drop_candidate(layer).choices
            drop = Option(choices, "dropped", 0.0, sensitivities.of_drop(layer))
        # options are relative to the untouched layer, so that shared kernels count once
        rest = 0.0 if sizes is None else sizes.rest[layer.name]
        base = own - sum(g.options[0].seconds for g in groups)
        layers.append(LayerTable(layer.name, groups, drop, base, base_size=rest))
    tables = Tables(tuple(layers), max(total, 0.0))
    if (
        sizes is not None
    ):  # of the dense model the bundle is there: its size is what the sums start from
        known = tables.size((0,) * len(tables.groups))
        tables = replace(tables, base_size=sizes.dense - known)
    return veto_slow(tables, sized=sizes is not None)


def _group(
    block: Block,
    space: Space,
    sensitivities: Sensitivities,
    seconds: Seconds,
    sizes: Sizes | None,
) -> Group:
    decisions = space.offers[block.name].decisions()
    kernels = {d: space.kernels[block.name].of(d) for d in decisions}
    options = []
    for decision, takes in shared_seconds(kernels, seconds).items():
        broken, error, veto = takes == inf, sensitivities.of(block, decision), ""
        if broken:
            veto = "a kernel that it needs could not be measured"
        elif error == inf:
            veto = "its numbers exceed what the format can say on the calibration data"
        options.append(
            Option(
                decision.choices(block),
                decision.family,
                1.0 if broken else takes,
                1.0 if error == inf else error,
                veto,
                size=0.0 if sizes is None else sizes.of(block, decision),
            )
        )
    return Group(block.name, tuple(options))
