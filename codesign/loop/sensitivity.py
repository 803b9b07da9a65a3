"""How much each single decision moves the outputs of the otherwise dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from codesign.candidate import Candidate, Choice
from codesign.loop.blocks import DENSE, DROP, Block, Decision, blocks_of
from codesign.loop.layer_solver import LayerSolver, effective, kept_units, merged, rows_of
from codesign.loop.offers import Offers
from codesign.records import Records
from codesign.records.entries import SensitivityKey
from codesign.simulate import Simulator, Variant
from passes.formats import Format
from passes.sites import Layer, Linear
from passes.solve.kept import on_kept_inputs
from passes.solve.site import Affine, solve_formats

SAMPLES = 32
"""Calibration samples on which a single decision is judged."""


@dataclass(frozen=True)
class Sensitivities:
    """Relative squared error of the outputs for each part of a decision, by choices."""

    values: dict[str, float]

    def of(self, block: Block, decision: Decision) -> float:
        """The error of a decision: the sum of its parts, as if they were independent."""
        parts = [Decision(keep=decision.keep), Decision(first=decision.first)]
        parts.append(Decision(second=decision.second))
        return sum(
            self.values[Candidate(part.choices(block)).key] for part in parts if part != Decision()
        )

    def of_drop(self, layer: Layer) -> float:
        """The error of leaving a layer out."""
        return self.values[drop_candidate(layer).key]


def drop_candidate(layer: Layer) -> Candidate:
    """The candidate that only leaves out one layer."""
    return Candidate((Choice(layer.name, DROP, {"drop": True}),))


@dataclass(frozen=True)
class SensitivityProbe:
    """Measures what is not recorded yet.

    Attributes:
        simulator, solver: made only when something is not recorded yet.
        key: makes the record's key of a candidate.
    """

    simulator: Callable[[], Simulator]
    solver: Callable[[], LayerSolver]
    records: Records
    key: Callable[[Candidate], SensitivityKey]

    def layer(
        self, layer: Layer, offers: dict[str, Offers], droppable: bool, step: Callable[[], None]
    ) -> dict[str, float]:
        """The sensitivities of all single decisions in a layer."""
        found: dict[str, float] = {}
        wanted: list[Candidate] = [drop_candidate(layer)] if droppable else []
        for block in blocks_of(layer):
            wanted += [Candidate(d.choices(block)) for d in single(offers[block.name])]
        missing = []
        for candidate in wanted:
            value = self.records.find_sensitivity(self.key(candidate))
            if value is None:
                missing.append(candidate.key)
            else:
                found[candidate.key] = value
        if missing:
            for candidate, variant in self._variants(layer, offers, droppable, set(missing)):
                value = self.simulator().sensitivity(layer.name, variant, SAMPLES)
                self.records.add_sensitivity(self.key(candidate), value)
                found[candidate.key] = value
        step()
        return found

    def _variants(
        self, layer: Layer, offers: dict[str, Offers], droppable: bool, missing: set[str]
    ) -> Iterator[tuple[Candidate, Variant]]:
        if droppable and drop_candidate(layer).key in missing:
            yield drop_candidate(layer), Variant(dropped=True)
        for block in blocks_of(layer):
            offer = offers[block.name]
            for decision, variant in [
                *self._kept(layer, block, offer, missing),
                *self._formats(layer, block, block.first, offer.first, True, missing),
                *self._formats(layer, block, block.second, offer.second, False, missing),
            ]:
                yield Candidate(decision.choices(block)), variant

    def _kept(
        self, layer: Layer, block: Block, offers: Offers, missing: set[str]
    ) -> Iterator[tuple[Decision, Variant]]:
        first, second = self.solver().affine(block.first), self.solver().affine(block.second)
        stream = self.simulator().dense_stream(layer.name)
        for keep in offers.keeps:
            decision = Decision(keep)
            if keep is None or Candidate(decision.choices(block)).key not in missing:
                continue
            gram = self.solver().gram(stream, block.second.name, Variant())
            rows = rows_of(block, kept_units(block, first, second, gram, keep))
            refitted, kept_gram = on_kept_inputs(second, gram, rows.second)
            solved = solve_formats(refitted, kept_gram, [DENSE])[0]
            yield decision, effective(block.second, solved, None, rows.second)

    def _formats(
        self,
        layer: Layer,
        block: Block,
        linear: Linear,
        forms: tuple[Format, ...],
        is_first: bool,
        missing: set[str],
    ) -> Iterator[tuple[Decision, Variant]]:
        decisions = {f: Decision(first=f) if is_first else Decision(second=f) for f in forms}
        todo = [
            f for f in forms if f != DENSE and Candidate(decisions[f].choices(block)).key in missing
        ]
        if not todo:
            return
        gram = self.solver().gram(self.simulator().dense_stream(layer.name), linear.name, Variant())
        affine: Affine = self.solver().affine(linear)
        for form, solved in zip(todo, solve_formats(affine, gram, todo), strict=True):
            yield decisions[form], merged(Variant(), effective(linear, solved, None, None))


def single(offers: Offers) -> list[Decision]:
    """All decisions that change one thing."""
    return [
        *(Decision(keep) for keep in offers.keeps if keep is not None),
        *(Decision(first=form) for form in offers.first if form != DENSE),
        *(Decision(second=form) for form in offers.second if form != DENSE),
    ]
