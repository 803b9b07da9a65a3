"""Stretches: a network that is no encoder, cut where all its paths meet.

A cut is a variable through which everything that is computed later depends on the input: the chain of
a plain network has one after every operator, a residual network one after every sum. Between two cuts
lies at least one layer with weights, or two that share the channels between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tvm import relax

from passes.norm import with_norm_within
from passes.patterns import ELEMENTWISE, Flow, LinearMatch, shape_of
from passes.sites import FFN, Linear, Part, Stretch


def find_stretches(
    flow: Flow, matches: Sequence[LinearMatch], linears: Sequence[Linear], ffns: Sequence[FFN]
) -> list[Stretch]:
    """The stretches of a model in order of computation, with the parts in them named.

    Args:
        flow: the model's bindings.
        matches: its linear layers and convolutions, in order.
        linears: the same as sites.
        ffns: pairs of them with only elementwise work between; a layer may be in several.
    """
    places = [_Place(flow.order[m.y], m, site) for m, site in zip(matches, linears, strict=True)]
    pairs = _disjoint(ffns)
    ends = _ends(flow, places, pairs)
    stretches: list[Stretch] = []
    for start, end in pairwise(ends):
        inside = [p for p in places if flow.order.get(start, -1) < p.at <= flow.order[end]]
        name = f"block{len(stretches)}"
        named = _named(name, inside, pairs)
        parts = tuple(
            with_norm_within(flow, part, end) if isinstance(part, FFN) else part for part in named
        )
        stretches.append(Stretch(name, parts, start.name, end.name, _droppable(flow, start, end)))
    return stretches


@dataclass(frozen=True)
class _Place:
    """A layer and the number of the binding that ends it."""

    at: int
    match: LinearMatch
    site: Linear


def _disjoint(ffns: Sequence[FFN]) -> dict[str, FFN]:
    """Pairs of which no two share a layer, the first ones first, by the weights of both layers."""
    found: dict[str, FFN] = {}
    for ffn in ffns:
        if ffn.up.weight not in found and ffn.down.weight not in found:
            found |= {ffn.up.weight: ffn, ffn.down.weight: ffn}
    return found


def _ends(flow: Flow, places: Sequence[_Place], pairs: Mapping[str, FFN]) -> list[relax.Var]:
    """The cuts to use: one before each layer that is not the second of a pair.

    It is behind the elementwise work that follows the layers before it, since that is fused into them.
    """
    cuts = flow.cuts()
    chosen: list[relax.Var] = []
    firsts = [p for p in places if p.site.weight not in pairs or pairs[p.site.weight].up == p.site]
    for place in firsts:
        begin = flow.order.get(place.match.x, -1)
        done = max((p.at for p in places if p.at <= begin), default=None)
        before = [c for c in cuts if flow.order.get(c, -1) <= begin]
        if done is not None:
            before = _elementwise(flow, [c for c in before if flow.order.get(c, -1) >= done])
        if before and (not chosen or not before[-1].same_as(chosen[-1])):
            chosen.append(before[-1])
    if chosen and not cuts[-1].same_as(chosen[-1]):
        chosen.append(cuts[-1])
    return _whole_pairs(flow, chosen, places, pairs)


def _elementwise(flow: Flow, cuts: list[relax.Var]) -> list[relax.Var]:
    """The first of consecutive cuts, with those that only elementwise work separates from it."""
    count = 1
    while count < len(cuts) and flow.call(cuts[count], *ELEMENTWISE) is not None:
        count += 1
    return cuts[:count]


def _whole_pairs(
    flow: Flow, ends: Sequence[relax.Var], places: Sequence[_Place], pairs: Mapping[str, FFN]
) -> list[relax.Var]:
    """The cuts that separate no pair, and have a layer between every two of them."""
    at = {p.site.weight: p.at for p in places}
    kept: list[relax.Var] = []
    for end in ends:
        here = flow.order.get(end, -1)
        split = any(at[f.up.weight] <= here < at[f.down.weight] for f in pairs.values())
        since = flow.order.get(kept[-1], -1) if kept else -2
        empty = bool(kept) and not any(since < p.at <= here for p in places)
        if empty and not split:
            kept[-1] = end if len(kept) > 1 else kept[-1]
        elif not split:
            kept.append(end)
    return kept


def _named(name: str, places: Sequence[_Place], pairs: Mapping[str, FFN]) -> tuple[Part, ...]:
    """The parts of a stretch under names of its own."""
    parts: list[Part] = []
    for place in places:
        pair = pairs.get(place.site.weight)
        if pair is None:
            kind = "linear" if place.site.window is None else "conv"
            parts.append(replace(place.site, name=f"{name}.{kind}{len(parts)}"))
        elif pair.up.weight == place.site.weight:
            inner = f"{name}.pair{len(parts)}"
            up, down = replace(pair.up, name=f"{inner}.in"), replace(pair.down, name=f"{inner}.out")
            parts.append(replace(pair, name=inner, up=up, down=down))
    return tuple(parts)


def _droppable(flow: Flow, start: relax.Var, end: relax.Var) -> bool:
    """Whether the stretch keeps its shape and adds to what enters it."""
    if shape_of(start) != shape_of(end) or str(start.ty.dtype) != str(end.ty.dtype):
        return False
    readers = [flow.call(reader, "relax.add") for reader in flow.readers(start)]
    return any(
        call is not None and all(isinstance(a, relax.Var) and flow.varies(a) for a in call.args)
        for call in readers
    )
