"""A canonical model cut into a chain of segments: prefix, one for each layer, suffix."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from codesign.simulate.graph import Dataflow, Slice
from passes.approximate import ApproximateConfig
from passes.sites import FFN, Attention, Linear, Norm, Part, Sites

PREFIX, SUFFIX = "prefix", "suffix"


@dataclass(frozen=True)
class Segment:
    """A part of the model between two cuts.

    Attributes:
        name: ``prefix``, the name of a layer, or ``suffix``; a model without layers is one suffix.
        part: its slice of the graph. ``given`` are the model's inputs or the layer's input,
            ``context`` what it reads from the prefix besides (the attention bias).
        linears: its linear sites in order of computation.
        attentions: its attention sites, likewise.
        ffns: its FFN sites whose activation has a replacement, likewise.
        norms: the layer norms behind them.
        is_section: True if it is a section of the model, which has decisions of its own.
    """

    name: str
    part: Slice
    linears: tuple[Linear, ...]
    attentions: tuple[Attention, ...] = ()
    ffns: tuple[FFN, ...] = ()
    norms: tuple[Norm, ...] = ()
    is_section: bool = False

    @property
    def switchable(self) -> tuple[Part | Norm, ...]:
        """The sites that may compute in another way."""
        return (*self.linears, *self.attentions, *self.ffns, *self.norms)


def cut(flow: Dataflow, sites: Sites) -> tuple[Segment, ...]:
    """The chain of segments of a model; ``context`` of all of them is what the prefix yields last.

    What a layer makes may be read further down too, by later layers or by outputs of the model of their
    own; then it is context there, which that layer yields. Layers that do not form a chain (two towers,
    outputs from within a layer) give a single segment.
    """
    inputs = tuple(s.name for s in flow.model.inputs)
    whole = (_segment(SUFFIX, flow.slice(inputs, flow.outputs), sites),)
    chain = _chain(flow, sites)
    if not chain:
        return whole
    first = chain[0].part.given[0]
    made = {name for segment in chain[:-1] for name in segment.part.wanted}
    context = dict.fromkeys(c for segment in chain for c in segment.part.context if c not in made)
    prefix = flow.slice(inputs, (first, *(c for c in context if c not in (first, *inputs))))
    parts = [prefix, *(segment.part for segment in chain)]
    bound = [b.var.name for part in parts for b in part.bindings]
    twice = {name for name, count in Counter(bound).items() if count > 1}
    if twice - flow.from_weights:
        return whole
    return (_segment(PREFIX, prefix, sites), *chain)


def _chain(flow: Dataflow, sites: Sites) -> list[Segment]:
    """The layers in order of computation, what lies between them, and the suffix."""
    order = {name: i for i, name in enumerate(flow.vars)}
    segments: list[Segment] = []
    ends: list[str] = []
    for layer in sorted(sites.layers, key=lambda layer: order[layer.output]):
        at = ends[-1] if ends else layer.input
        if layer.input != at:
            if layer.input not in flow.after((at,)):
                return []
            between = flow.slice_after(at, ends, (layer.input,))
            segments.append(_segment(f"before {layer.name}", between, sites))
            ends.append(layer.input)
        part = flow.slice_after(layer.input, ends, (layer.output,))
        segments.append(_segment(layer.name, part, sites, is_section=True))
        ends = [*ends, layer.output] if ends else [layer.input, layer.output]
    if segments:
        rest = flow.slice_after(ends[-1], ends, flow.outputs)
        segments.append(_segment(SUFFIX, rest, sites))
    return segments


def _segment(name: str, part: Slice, sites: Sites, is_section: bool = False) -> Segment:
    """A slice with the sites that lie in it, in order of its weights."""
    linears = {linear.weight: linear for linear in sites.linears}
    attentions = {attention.qkv.weight: attention for attention in sites.attentions}
    ffns = {f.up.weight: f for f in sites.ffns if f.activation in ApproximateConfig().operators}
    behind = [*(a.norm for a in sites.attentions), *(f.norm for f in sites.ffns)]
    norms = {norm.weight: norm for norm in behind if norm is not None}
    return Segment(
        name,
        part,
        tuple(linears[w] for w in part.weights if w in linears),
        tuple(attentions[w] for w in part.weights if w in attentions),
        tuple(ffns[w] for w in part.weights if w in ffns),
        tuple(norms[w] for w in part.weights if w in norms),
        is_section,
    )
