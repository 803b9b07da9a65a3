"""A segment cut where its linear layers read their inputs, so that nothing before is run twice.

A solver asks for the input of one linear layer after the other, each time having changed the layers
before it. Run stage by stage, a segment costs one pass for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from codesign.simulate.graph import Dataflow, Slice
from codesign.simulate.instrument import probe_input, residual_input
from codesign.simulate.segments import Segment
from passes.sites import Norm, Part


@dataclass(frozen=True)
class Stage:
    """The part of a segment up to the next stop.

    Attributes:
        part: its slice; ``wanted`` is what later stages or segments read of what it computes.
        switchable: the sites in it that may compute in another way.
        kept: names that later stages of the segment still read, from this stage or before it.
    """

    part: Slice
    switchable: tuple[Part | Norm, ...]
    kept: frozenset[str]


@dataclass(frozen=True)
class Staged:
    """A segment as stages.

    Attributes:
        stages: in order of computation.
        reach: name of a linear site -> number of stages after which its input is known, and with it
            the stream that its output is added to.
        inputs: name of a linear site -> variable of its input.
        residuals: the same for the stream that its output is added to, where there is one.
    """

    stages: tuple[Stage, ...]
    reach: Mapping[str, int]
    inputs: Mapping[str, str]
    residuals: Mapping[str, str]


def staged(flow: Dataflow, segment: Segment) -> Staged:
    """Cut a segment at the inputs of its linear sites."""
    place = {name: i for i, name in enumerate(flow.vars)}
    inputs = {site.name: probe_input(flow, site) for site in segment.linears}
    residuals: dict[str, str] = {}
    for site in segment.linears if segment.is_section else ():
        name = residual_input(flow, site)
        if name is not None:
            residuals[site.name] = name
    left = {b.var.name for b in segment.part.bindings}
    cuts: list[set[str]] = []
    reach: dict[str, int] = {}
    for linear in sorted(inputs, key=lambda name: place[inputs[name]]):
        stops = {inputs[linear], *([residuals[linear]] if linear in residuals else [])}
        if found := _needed(flow, stops, left):
            cuts.append(found)
            left -= found
        reach[linear] = len(cuts)
    if left:
        cuts.append(left)
    asked = {*inputs.values(), *residuals.values()}  # also where one stage computes several of them
    stages = tuple(
        _stage(flow, segment, cut, set().union(*cuts[i + 1 :]), asked) for i, cut in enumerate(cuts)
    )
    return Staged(stages, reach, inputs, residuals)


def _needed(flow: Dataflow, names: Iterable[str], among: set[str]) -> set[str]:
    """``names`` and what they are computed from, as far as it is ``among`` what is left."""
    found: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name in among and name not in found:
            found.add(name)
            stack += flow.reads[name]
    return found


def _stage(
    flow: Dataflow, segment: Segment, inside: set[str], later: set[str], asked: set[str]
) -> Stage:
    bindings = tuple(b for b in segment.part.bindings if b.var.name in inside)
    reads = [r for b in bindings for r in flow.reads[b.var.name] if r not in inside]
    weights = tuple(dict.fromkeys(r for r in reads if r in flow.model.weights))
    given = tuple(dict.fromkeys(r for r in reads if r not in flow.model.weights))
    needed = {r for name in later for r in flow.reads[name]} | set(segment.part.wanted) | asked
    wanted = tuple(b.var.name for b in bindings if b.var.name in needed)
    found = [site for site in segment.linears if site.weight in weights]
    cores = [site for site in segment.attentions if site.qkv.weight in weights]
    ffns = [site for site in segment.ffns if site.up.weight in weights]
    norms = [norm for norm in segment.norms if norm.weight in weights]
    part = Slice(given, (), weights, wanted, bindings)
    return Stage(part, (*found, *cores, *ffns, *norms), frozenset(needed - set(flow.model.weights)))
