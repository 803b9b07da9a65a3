"""Solves a whole candidate, layer after layer, on the activations that the layers before it leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

from codesign.candidate import Candidate
from codesign.loop.blocks import Decision, blocks_of, decision_of, dropped, tokens_kept
from codesign.loop.layer_solver import LayerSolver, SolvedBlock
from codesign.machine import cores
from codesign.simulate import Simulator, Stream, Variant
from passes.sites import Section, Sites
from passes.solve.blas import one_thread
from targets.target import Target


@dataclass(frozen=True)
class SolvedCandidate:
    """A candidate with all its weights, still to be put into the graph (see `rewrite_candidate`).

    Attributes:
        blocks: in order of computation, without those of dropped layers.
        dropped: the layers left out.
        tokens: how many are left at the input of a layer, by its name; empty if no tokens are merged.
        output_error: relative squared error of the outputs over the calibration samples.
    """

    blocks: tuple[SolvedBlock, ...] = ()
    dropped: tuple[Section, ...] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    output_error: float = 0.0


def solve_candidate(
    sites: Sites,
    simulator: Simulator,
    solver: LayerSolver,
    candidate: Candidate,
    target: Target,
    step: Callable[[], None] = lambda: None,
) -> SolvedCandidate:
    """Solve all layers in order; ``step`` is called after each layer."""
    gone = dropped(candidate, sites)
    by_name = {layer.name: layer for layer in sites.layers}
    stream = simulator.dense_stream(simulator.segments[0].name)
    blocks: list[SolvedBlock] = []
    tokens: dict[str, int] = {}
    for segment in simulator.segments:
        change = Variant()
        layer = by_name.get(segment.name)
        if segment.name in gone:
            change = Variant(dropped=True)
        elif layer is not None:
            if (keep := tokens_kept(candidate, layer.name)) is not None:
                stream, tokens[layer.name] = simulator.merge(stream, keep), keep
            found, change = solve_layer(solver, stream, layer, candidate, target)
            blocks += found
        stream = simulator.advance(stream, change)
        if layer is not None:
            step()
    layers = tuple(by_name[name] for name in sorted(gone))
    return SolvedCandidate(tuple(blocks), layers, tokens, simulator.output_error(stream))


class _StoppedError(Exception):
    """Other work has failed or the user stops: what is begun need not end."""


@one_thread
def solve_side_by_side(
    candidates: Sequence[Candidate],
    solve: Callable[[Candidate, Callable[[], None]], SolvedCandidate],
    goes_on: Callable[[], bool],
    told: Callable[[], None] = lambda: None,
) -> dict[str, SolvedCandidate]:
    """Solve candidates, as many at once as there are cores: key -> what came out.

    Args:
        solve: solves one and calls back after each layer.
        goes_on: asked before each candidate; those for which it says no are left out.
        told: called when the next candidate in order is done or left out.
    """
    stop = Event()

    def step() -> None:
        if stop.is_set():
            raise _StoppedError

    def work(candidate: Candidate) -> SolvedCandidate | None:
        return solve(candidate, step) if goes_on() and not stop.is_set() else None

    with ThreadPoolExecutor(cores()) as pool:
        jobs = {candidate.key: pool.submit(work, candidate) for candidate in candidates}
        results: dict[str, SolvedCandidate | None] = {}
        try:
            for key, job in jobs.items():
                results[key] = job.result()
                told()
        finally:
            stop.set()
    return {key: result for key, result in results.items() if result is not None}


def solve_layer(
    solver: LayerSolver, stream: Stream, layer: Section, candidate: Candidate, target: Target
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
