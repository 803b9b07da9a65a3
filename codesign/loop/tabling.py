"""Everything that the search has to know of one base: its space measured, its decisions judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from codesign.candidate import WHOLE, Candidate
from codesign.loop.bases import Base
from codesign.loop.blocks import blocks_of
from codesign.loop.combinations import measured_whole
from codesign.loop.gains import at_full_width, gained_before, gainful
from codesign.loop.lengths import lengths_of, with_lengths, worthwhile
from codesign.loop.offers import all_offers
from codesign.loop.sensitivity import Sensitivities, SensitivityProbe, in_formats
from codesign.loop.sizes import Sizes, rest_of, weight_bytes
from codesign.loop.tables import Space, space_of, tables_of
from codesign.loop.workshop import Workshop
from codesign.records.entries import SensitivityKey
from codesign.search import Group, Layer, Option, Tables


@dataclass(frozen=True)
class Tabled:
    """A base that can be searched.

    Attributes:
        space: what may be decided.
        tables: what that costs, as measured. What makes the base has its place in them: a group with one
            option, so that every plan has the base's choices and its error.
    """

    base: Base
    space: Space
    tables: Tables


@dataclass
class Tabler:
    """Fills tables by measuring.

    Attributes:
        enabled: names of the passes to use.
        model: hash of the uncompressed model.
        solver_version: of solvers and calibration data.
        dense_size: bytes of the uncompressed model's bundle; None if no goal asks for size.
    """

    workshop: Workshop
    enabled: tuple[str, ...]
    model: str
    solver_version: str
    dense_size: int | None = None

    def first(self, base: Base) -> Tabled:
        """The model itself; what does not gain at full width is measured and left out first."""
        workshop, target = self.workshop, self.workshop.target
        offers = all_offers(base.sites.layers, target, self.enabled)
        workshop.progress.start("find what each layer offers", len(base.sites.layers))
        full = space_of(
            base.model,
            base.sites,
            target,
            self.enabled,
            at_full_width(offers),
            workshop.progress.step,
        )
        workshop.tune(full.book.known.values(), "tune kernels at full width")
        smaller_on = None if self.dense_size is None else target
        offers = gainful(offers, full, workshop.kernel_seconds, smaller_on)
        space = space_of(base.model, base.sites, target, self.enabled, offers)
        workshop.tune(space.book.known.values())
        sensitivities = self._sensitivities(base, space)
        return Tabled(base, space, self._tables(base, space, sensitivities))

    def further(self, base: Base, first: Tabled) -> Tabled:
        """Another base: with the kinds of decisions that gained in the first one, at its own widths."""
        workshop, target = self.workshop, self.workshop.target
        offers = all_offers(base.sites.layers, target, self.enabled)
        offers = gained_before(offers, worthwhile(first.space, first.tables))
        workshop.progress.start(f"{base.label}: find its kernels", len(base.sites.layers))
        step = workshop.progress.step
        space = space_of(base.model, base.sites, target, self.enabled, offers, step)
        workshop.tune(space.book.known.values(), f"{base.label}: tune kernels")
        sensitivities = self._sensitivities(base, space)
        tables = self._whole(base, space, sensitivities)
        made = Option(base.choices, base.choices[0].pass_name, 0.0, base.error)
        itself = Layer(WHOLE, (Group(WHOLE, (made,)),))
        return Tabled(base, space, replace(tables, layers=(itself, *tables.layers)))

    def _sensitivities(self, base: Base, space: Space) -> Sensitivities:
        progress, target = self.workshop.progress, self.workshop.target
        probe = SensitivityProbe(
            lambda: base.simulator,
            lambda: base.solver,
            self.workshop.records,
            partial(self._key, base, "calibration"),
            space.lengths[1:],
            None if self.dense_size is None else partial(self._key, base, self._bytes),
            target,
        )
        progress.start(base.named("sensitivity of each decision"), len(space.layers))
        return Sensitivities(
            probe.layers(space.layers, space.offers, space.droppable, progress.step)
        )

    def _key(self, base: Base, what: str, candidate: Candidate) -> SensitivityKey:
        """Under which something is recorded of a decision that a base gets."""
        whole = base.candidate(*candidate.choices)
        return SensitivityKey(self.model, whole, what, self.solver_version)

    @property
    def _bytes(self) -> str:
        """What is recorded of a format's size: the bytes that it takes in a bundle."""
        return f"bytes, blocks of {self.workshop.target.block}"

    def _sizes(self, base: Base, space: Space) -> Sizes | None:
        """What every decision takes in a bundle; None if no goal asks for size."""
        if self.dense_size is None:
            return None
        blocks = [block for layer in space.layers for block in blocks_of(layer)]
        candidates = [c for block in blocks for c in in_formats(block, space.offers)]
        records = self.workshop.records
        found = {
            c.key: records.find_sensitivity(self._key(base, self._bytes, c)) for c in candidates
        }
        # a bundle holds weights and little else: what pruning took from them is gone from it
        origin = base if base.origin is None else base.origin
        gone = weight_bytes(origin.model) - weight_bytes(base.model)
        return Sizes(
            self.workshop.target,
            self.dense_size - gone,
            rest_of(base.model, space.layers),
            {key: value for key, value in found.items() if value is not None},
        )

    def _whole(self, base: Base, space: Space, sensitivities: Sensitivities) -> Tables:
        """What every option costs on the full sequence."""
        workshop = self.workshop
        sizes = self._sizes(base, space)
        return measured_whole(
            base.model,
            space,
            workshop.target,
            lambda: tables_of(space, sensitivities, workshop.kernel_seconds, sizes),
            lambda: workshop.tune(
                space.book.known.values(), base.named("tune kernels of combinations")
            ),
        )

    def _tables(self, base: Base, space: Space, sensitivities: Sensitivities) -> Tables:
        """What every option costs, on shorter sequences too where there are any."""
        seconds = self.workshop.kernel_seconds
        tables = self._whole(base, space, sensitivities)
        if not space.lengths:
            return tables
        self.workshop.progress.say("lowering what is worth it for shorter sequences")
        lengths = lengths_of(base.model, space, tables, self.workshop.target)
        self.workshop.tune(space.book.known.values(), "tune kernels of shorter sequences")
        return with_lengths(tables, space, lengths, sensitivities, seconds)
