"""How much each single decision moves the outputs of the otherwise dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from math import inf
from queue import SimpleQueue
from threading import Event

import numpy as np
from numpy.typing import NDArray

from codesign.candidate import Candidate, Choice
from codesign.loop.blocks import DROP, Block, Decision, blocks_of, tokens_kept
from codesign.loop.layer_solver import Index, LayerSolver, effective, merged
from codesign.loop.offers import Offers
from codesign.loop.sizes import stored_bytes
from codesign.machine import cores
from codesign.records import Records
from codesign.records.entries import SensitivityKey
from codesign.simulate import Simulator, Variant
from passes import tokens
from passes.formats import DENSE, Format, Solved
from passes.sites import Attention, Section
from passes.solve.blas import one_thread
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_ffn_widths, solve_formats, solve_head_counts
from targets.target import Target

SAMPLES = 16
"""Calibration samples on which a single decision is judged."""


@dataclass(frozen=True)
class Sensitivities:
    """Relative squared error of the outputs for each part of a decision, by choices.

    Infinite where a format cannot say the numbers of its layer.
    """

    values: dict[str, float]

    def of(self, block: Block, decision: Decision) -> float:
        """The error of a decision: the sum of its parts, as if they were independent."""
        parts = [
            Decision(keep=decision.keep),
            Decision(first=decision.first),
            Decision(second=decision.second),
            Decision(core=decision.core),
        ]
        return sum(
            self.values[Candidate(part.choices(block)).key] for part in parts if part != Decision()
        )

    def of_drop(self, layer: Section) -> float:
        """The error of leaving a layer out."""
        return self.values[drop_candidate(layer).key]


def drop_candidate(layer: Section) -> Candidate:
    """The candidate that only leaves out one layer."""
    return Candidate((Choice(layer.name, DROP, {"drop": True}),))


def tokens_candidate(layer: Section, keep: int) -> Candidate:
    """The candidate that only merges tokens at the input of one layer."""
    return Candidate((Choice(layer.name, tokens.NAME, {"keep": keep}),))


@dataclass(frozen=True)
class SensitivityProbe:
    """Measures what is not recorded yet.

    Attributes:
        simulator, solver: made only when something is not recorded yet.
        key: makes the record's key of a candidate.
        lengths: tokens that may be left at the input of a layer.
        stored: where size is asked for, makes the key under which the bytes of a format are recorded, as
            in a bundle for ``target``.
    """

    simulator: Callable[[], Simulator]
    solver: Callable[[], LayerSolver]
    records: Records
    key: Callable[[Candidate], SensitivityKey]
    lengths: tuple[int, ...] = ()
    stored: Callable[[Candidate], SensitivityKey] | None = None
    target: Target | None = None

    def layers(
        self,
        layers: Sequence[Section],
        offers: Mapping[str, Offers],
        droppable: bool,
        step: Callable[[str], None],
    ) -> dict[str, float]:
        """The sensitivities of all single decisions; layers are worked on side by side."""
        found: dict[str, float] = {}
        missing: list[tuple[Section, set[str]]] = []
        for layer in layers:
            wanted = [drop_candidate(layer)] if droppable and layer.droppable else []
            wanted += [tokens_candidate(layer, length) for length in self.lengths]
            for block in blocks_of(layer):
                wanted += [Candidate(d.choices(block)) for d in single(offers[block.name])]
            values = {c.key: self.records.find_sensitivity(self.key(c)) for c in wanted}
            found |= {key: value for key, value in values.items() if value is not None}
            unknown = {key for key, value in values.items() if value is None}
            if self.stored is not None:
                formats = [c for block in blocks_of(layer) for c in in_formats(block, offers)]
                stored = {c.key: self.records.find_sensitivity(self.stored(c)) for c in formats}
                unknown |= {key for key, value in stored.items() if value is None}
            if unknown:
                missing.append((layer, unknown))
            else:
                step(layer.name)
        if missing:
            self.solver()  # made here, before threads ask for it at once
            found |= self._measure(missing, offers, droppable, step, found)
        return found

    @one_thread
    def _measure(
        self,
        missing: Sequence[tuple[Section, set[str]]],
        offers: Mapping[str, Offers],
        droppable: bool,
        step: Callable[[str], None],
        known: Mapping[str, float],
    ) -> dict[str, float]:
        """Solve and simulate what is missing; each value is stored as soon as it is known."""
        results: SimpleQueue[tuple[Candidate, float | None, int | None] | str] = SimpleQueue()
        stop = Event()

        def work(layer: Section, unknown: set[str]) -> None:
            try:
                for candidate, variant, stored in self._variants(layer, offers, droppable, unknown):
                    if stop.is_set():
                        return
                    value = None
                    if candidate.key not in known:
                        keep = tokens_kept(candidate, layer.name)
                        value = inf
                        if variant is not None:
                            value = self.simulator().sensitivity(layer.name, variant, SAMPLES, keep)
                    results.put((candidate, value, stored))
            finally:
                results.put(layer.name)

        found: dict[str, float] = {}
        with ThreadPoolExecutor(cores()) as pool:
            jobs = [pool.submit(work, *job) for job in missing]
            try:
                done = 0
                while done < len(missing):
                    result = results.get()
                    if isinstance(result, str):
                        done += 1
                        step(result)
                        continue
                    candidate, value, stored = result
                    if value is not None:
                        self.records.add_sensitivity(self.key(candidate), value)
                        found[candidate.key] = value
                    if stored is not None and self.stored is not None:
                        self.records.add_sensitivity(self.stored(candidate), stored)
            finally:
                stop.set()
        for job in jobs:
            job.result()  # raises what the work raised
        return found

    def _variants(
        self, layer: Section, offers: Mapping[str, Offers], droppable: bool, missing: set[str]
    ) -> Iterator[tuple[Candidate, Variant | None, int | None]]:
        if droppable and layer.droppable and drop_candidate(layer).key in missing:
            yield drop_candidate(layer), Variant(dropped=True), None
        for candidate in (tokens_candidate(layer, length) for length in self.lengths):
            if candidate.key in missing:
                yield candidate, Variant(), None
        for block in blocks_of(layer):
            offer = offers[block.name]
            parts: Iterable[tuple[Decision, Variant | None, int | None]] = chain(
                self._kept(layer, block, offer, missing),
                self._formats(layer, block, True, offer.first, missing),
                self._formats(layer, block, False, offer.second, missing),
                self._cores(block, offer, missing),
            )
            for decision, variant, stored in parts:
                candidate = Candidate(decision.choices(block))
                if candidate.key in missing:
                    yield candidate, variant, stored

    def _kept(
        self, layer: Section, block: Block, offers: Offers, missing: set[str]
    ) -> Iterator[tuple[Decision, Variant, None]]:
        keeps = [
            keep
            for keep in offers.keeps
            if keep is not None and Candidate(Decision(keep).choices(block)).key in missing
        ]
        if not keeps or block.second is None:
            return
        first, second = self.solver().affine(block.first), self.solver().affine(block.second)
        stream = self.simulator().dense_stream(layer.name)
        gram = self.solver().gram(stream, block.second.name, Variant())
        kept_units = fitted_units(block, first, second, gram, keeps)
        for keep, (units, fitted) in zip(keeps, kept_units, strict=True):
            self.solver().kept[block.name, keep] = units
            solved = Solved(DENSE, np.asarray(fitted.weight, np.float32), _float32(fitted.bias))
            yield Decision(keep), effective(block.second, solved, None, None), None

    def _cores(
        self, block: Block, offers: Offers, missing: set[str]
    ) -> Iterator[tuple[Decision, Variant, None]]:
        for core in offers.core:
            decision = Decision(core=core)
            if core and Candidate(decision.choices(block)).key in missing:
                yield decision, self.solver().changed_core(block, core), None

    def _formats(
        self,
        layer: Section,
        block: Block,
        is_first: bool,
        forms: tuple[Format, ...],
        missing: set[str],
    ) -> Iterator[tuple[Decision, Variant | None, int | None]]:
        """Each format with what it changes, and what it stores; None where it cannot say the layer's numbers."""
        decisions = {f: Decision(first=f) if is_first else Decision(second=f) for f in forms}
        todo = [
            f for f in forms if f != DENSE and Candidate(decisions[f].choices(block)).key in missing
        ]
        linear = block.first if is_first else block.second
        if not todo or linear is None:
            return
        gram = self.solver().gram(self.simulator().dense_stream(layer.name), linear.name, Variant())
        affine: Affine = self.solver().affine(linear)
        unfit = [f for f in todo if f.unfit(affine.weight, gram.values) is not None]
        for form in unfit:
            yield decisions[form], None, None
        fit = [f for f in todo if f not in unfit]
        for form, solved in zip(fit, solve_formats(affine, gram, fit), strict=True):
            stored = None
            if self.stored is not None and self.target is not None:
                stored = stored_bytes(linear, solved, self.target)
            variant = merged(Variant(), effective(linear, solved, None, None))
            yield decisions[form], variant, stored


def fitted_units(
    block: Block, first: Affine, second: Affine, gram: Gram, keeps: Sequence[int]
) -> list[tuple[Index, Affine]]:
    """For each number of units kept, which they are, and the second layer refitted to them.

    Columns of removed units are zero.
    """
    if isinstance(block.site, Attention):
        heads = solve_head_counts(first, second, gram, block.units, block.rows, keeps)
        return [(s.keep, s.out) for s in heads]
    widths = solve_ffn_widths(first, second, gram, keeps, block.features)
    return [(s.keep, s.down) for s in widths]


def _float32(array: NDArray[np.floating] | None) -> NDArray[np.float32] | None:
    return None if array is None else array.astype(np.float32)


def single(offers: Offers) -> list[Decision]:
    """All decisions that change one thing."""
    return [
        *(Decision(keep) for keep in offers.keeps if keep is not None),
        *(Decision(first=form) for form in offers.first if form != DENSE),
        *(Decision(second=form) for form in offers.second if form != DENSE),
        *(Decision(core=core) for core in offers.core if core),
    ]


def in_formats(block: Block, offers: Mapping[str, Offers]) -> list[Candidate]:
    """The candidates that only give one layer of a block a format."""
    offer = offers[block.name]
    decisions = [d for d in single(offer) if d.keep is None and not d.core]
    return [Candidate(d.choices(block)) for d in decisions]
