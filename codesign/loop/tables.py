"""The tables that the search works on, filled with what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from codesign.loop.blocks import DROP, Block, blocks_of
from codesign.loop.costs import BlockKernels, KernelBook, block_kernels, layer_model
from codesign.loop.offers import Offers, offers_for
from codesign.loop.sensitivity import Sensitivities, drop_candidate
from codesign.search import Group, Option, Tables, veto_slow
from codesign.search import Layer as LayerTable
from passes.model import Model
from passes.report import Refusal
from passes.sites import Section, Sites
from targets.target import Target

Seconds = Callable[[Mapping[str, int]], float]


@dataclass(frozen=True)
class Space:
    """All that may be decided, with the kernels that each decision leads to.

    Attributes:
        offers, kernels: by name of block.
        untouched: kernels of each layer as it is, by name of layer.
        dense: kernels of the whole model as it is.
        book: every kernel that any decision leads to.
        droppable: whether layers may be left out.
    """

    layers: tuple[Section, ...]
    offers: Mapping[str, Offers]
    kernels: Mapping[str, BlockKernels]
    untouched: Mapping[str, Mapping[str, int]]
    dense: Mapping[str, int]
    book: KernelBook
    droppable: bool

    @property
    def refusals(self) -> list[Refusal]:
        """What the passes did not offer, and why."""
        return [r for offer in self.offers.values() for r in offer.refusals]


def space_of(
    model: Model,
    sites: Sites,
    target: Target,
    enabled: tuple[str, ...],
    step: Callable[[str], None],
) -> Space:
    """Lower every decision; layers of the same kernels share the work."""
    book = KernelBook()
    dense = book.count(model, target)
    offers: dict[str, Offers] = {}
    found: dict[str, BlockKernels] = {}
    untouched: dict[str, Mapping[str, int]] = {}
    same: dict[tuple[object, ...], dict[int, BlockKernels]] = {}
    for layer in sites.layers:
        alone = layer_model(model, layer)
        untouched[layer.name] = counts = book.count(alone, target)
        blocks = blocks_of(layer)
        for block in blocks:
            offers[block.name] = offers_for(block, target, enabled)
        shape = (*sorted(counts.items()), *(_shape(offers[b.name]) for b in blocks))
        if shape not in same:
            same[shape] = {
                i: block_kernels(alone, b, offers[b.name], target, book)
                for i, b in enumerate(blocks)
            }
        for index, block in enumerate(blocks):
            found[block.name] = same[shape][index]
        step(layer.name)
    return Space(sites.layers, offers, found, untouched, dense, book, DROP in enabled)


def _shape(offers: Offers) -> tuple[object, ...]:
    return (offers.keeps, offers.first, offers.second)


def tables_of(space: Space, sensitivities: Sensitivities, seconds: Seconds) -> Tables:
    """The search's tables, slow options vetoed.

    Args:
        space: what may be decided.
        sensitivities: error of each single decision.
        seconds: measured time of a multiset of kernels.
    """
    total, layers = seconds(space.dense), []
    for layer in space.layers:
        own = seconds(space.untouched[layer.name])
        total -= own
        groups = tuple(_group(b, space, sensitivities, seconds) for b in blocks_of(layer))
        drop = None
        if space.droppable and layer.droppable:
            choices = drop_candidate(layer).choices
            drop = Option(choices, "dropped", 0.0, sensitivities.of_drop(layer))
        # options are relative to the untouched layer, so that shared kernels count once
        layers.append(LayerTable(layer.name, groups, drop, own - sum(_dense(g) for g in groups)))
    return veto_slow(Tables(tuple(layers), max(total, 0.0)))


def _replaced(changes: Iterable[Mapping[str, int]]) -> Counter[str]:
    """The kernels of the untouched block that some decision does without."""
    found: Counter[str] = Counter()
    for change in changes:
        found |= Counter({kernel: -n for kernel, n in change.items() if n < 0})
    return found


def _dense(group: Group) -> float:
    return group.options[0].seconds


def _group(block: Block, space: Space, sensitivities: Sensitivities, seconds: Seconds) -> Group:
    decisions = space.offers[block.name].decisions()
    kernels = {d: space.kernels[block.name].of(d) for d in decisions}
    own = seconds(_replaced(kernels.values()))
    options = []
    for decision in decisions:
        takes = own + seconds(kernels[decision])
        broken = takes != takes or takes == float("inf")
        options.append(
            Option(
                decision.choices(block),
                decision.family,
                max(takes, 0.0) if not broken else 1.0,
                sensitivities.of(block, decision),
                "a kernel that it needs could not be measured" if broken else "",
            )
        )
    return Group(block.name, tuple(options))
