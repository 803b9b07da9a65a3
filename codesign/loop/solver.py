"""Solves a whole candidate, layer after layer, on the activations that the layers before it leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from codesign.candidate import Candidate
from codesign.loop.blocks import Decision, blocks_of, decision_of, dropped
from codesign.loop.layer_solver import LayerSolver, SolvedBlock
from codesign.loop.rewrite import rewrite_candidate
from codesign.simulate import Simulator, Stream, Variant
from passes.model import Model
from passes.sites import Layer, Sites
from targets.target import Target


@dataclass(frozen=True)
class SolvedCandidate:
    """A candidate with all its weights.

    Attributes:
        model: the rewritten graph, still to be lowered.
        output_error: relative squared error of the outputs over the calibration samples.
    """

    model: Model
    output_error: float


def solve_candidate(
    model: Model,
    sites: Sites,
    simulator: Simulator,
    solver: LayerSolver,
    candidate: Candidate,
    target: Target,
    step: Callable[[], None] = lambda: None,
) -> SolvedCandidate:
    """Solve all layers in order and rewrite the model; ``step`` is called after each layer."""
    gone = dropped(candidate, sites)
    by_name = {layer.name: layer for layer in sites.layers}
    stream = simulator.dense_stream(simulator.segments[0].name)
    blocks: list[SolvedBlock] = []
    for segment in simulator.segments:
        change = Variant()
        layer = by_name.get(segment.name)
        if segment.name in gone:
            change = Variant(dropped=True)
        elif layer is not None:
            found, change = solve_layer(solver, stream, layer, candidate, target)
            blocks += found
        stream = simulator.advance(stream, change)
        if layer is not None:
            step()
    compact = rewrite_candidate(model, blocks, [by_name[n] for n in sorted(gone)], target)
    return SolvedCandidate(compact, simulator.output_error(stream))


def solve_layer(
    solver: LayerSolver, stream: Stream, layer: Layer, candidate: Candidate, target: Target
) -> tuple[list[SolvedBlock], Variant]:
    """The blocks of one layer, and what they change in it together."""
    change, found = Variant(), []
    for block in blocks_of(layer):
        decision = decision_of(candidate, block, target)
        if decision == Decision() and stream.dense and change.is_nothing:
            continue
        solved = solver.solve(stream, block, decision, change)
        change = solved.change
        found.append(solved)
    return found, change
