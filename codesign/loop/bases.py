"""Bases: the forms of a model that candidates start from.

What is decided for a section costs time and error by itself, so the search can add options up. The
widths of a network's trunk cannot be decided so: one number holds in every section. Each such state of
the whole model is a base, with sites, kernels and tables of its own; the first one is the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from codesign.candidate import Candidate, Choice
from codesign.loop.layer_solver import LayerSolver
from codesign.simulate import Simulator
from codesign.user_code import Arrays
from passes.model import Model
from passes.sites import Sites
from targets.target import Target


@dataclass(eq=False)
class Base:
    """One form of the model.

    Attributes:
        model: canonical.
        sites: of this form.
        target: this machine with all its cores, which simulate.
        samples: calibration inputs.
        choices: what was done to the whole model; nothing to the first base.
        error: of its outputs against the first base, over the calibration samples.
        origin: the first base; None of itself.
        say: told when the samples are run.
    """

    model: Model
    sites: Sites
    target: Target
    samples: Sequence[Arrays]
    choices: tuple[Choice, ...] = ()
    error: float = 0.0
    origin: Base | None = None
    say: Callable[[str], None] = lambda _: None

    @property
    def label(self) -> str:
        """What people call it; empty for the first base."""
        return Candidate(self.choices).label() if self.choices else ""

    def named(self, site: str) -> str:
        """A site's name, with the base before it if it is not the first."""
        return f"{self.label}: {site}" if self.choices else site

    def candidate(self, *choices: Choice) -> Candidate:
        """The candidate that makes these choices from here."""
        return Candidate((*self.choices, *choices))

    @cached_property
    def simulator(self) -> Simulator:
        """Made when something is first not in the records; its errors are against the first base."""
        self.say("running the calibration samples")
        reference = None if self.origin is None else self.origin.simulator.dense_outputs()
        return Simulator(self.model, self.sites, self.target, self.samples, reference=reference)

    @cached_property
    def solver(self) -> LayerSolver:
        """It keeps the Gram matrices of the base as it is."""
        return LayerSolver(self.model, self.simulator)


@dataclass
class Bases:
    """All bases of a sweep, the model itself first."""

    found: list[Base] = field(default_factory=list)

    @property
    def first(self) -> Base:
        return self.found[0]

    def of(self, candidate: Candidate) -> Base:
        """The base that a candidate starts from."""
        made = set(candidate.choices)
        fits = [base for base in self.found if made.issuperset(base.choices)]
        return max(fits, key=lambda base: len(base.choices))
