"""The compression table: each family at each architecture where it applies, against the same in PyTorch.

A candidate is solved, rewritten, compiled and run; the original module with the effective weights of that
candidate runs in PyTorch in float64 (`benchmarks.models.twin`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from benchmarks.applicability import FAMILIES, Applies, Family, Subject, verdict
from benchmarks.models.zoo import SMALL
from codesign.candidate import Candidate, Choice
from codesign.frontend.samples import draw
from codesign.loop.layer_solver import LayerSolver
from codesign.loop.rewrite import rewrite_candidate
from codesign.loop.solver import solve_candidate
from codesign.pipeline import compile_model
from codesign.simulate import Simulator
from passes.approximate import NAME as APPROXIMATE
from passes.channels.prune import prune_channels
from passes.channels.refit import solve_channels
from passes.formats import Seen
from passes.int8_attention import NAME as INT8_ATTENTION
from passes.model import Model
from passes.sites import Section, encoder_layers
from targets.target import host

if TYPE_CHECKING:  # importing it takes seconds
    import torch

Outputs = list[NDArray[Any]]

SAMPLES = 6
"""Calibration inputs, each of the model's batch."""

BY_NAME = {family.name: family for family in FAMILIES}

COARSE = {"int8, dynamic", "int8, static", "int8 attention", "bfloat16", "float16"}
"""Families that round activations: a number half way between two codes may become the other one, since
sums are in another order, and the difference is then a step of a code and what follows from it."""

OWN_SUMS = {"float16"}
"""Families whose kernel rounds its sums too, which PyTorch does not do here: that moves the outputs as much as
rounding the weights and the inputs does, so the one cannot be told by the other."""

EXACT_LIMIT, COARSE_LIMIT = 1e-4, 3e-2
"""Largest error, of the largest output."""

COARSE_SHARE = 0.2
"""Root mean square error, of what the compression itself does to the outputs."""


@dataclass(frozen=True)
class Changes:
    """What a candidate does to a model, for PyTorch to do the same.

    Attributes:
        model: compressed, still canonical.
        weights: effective dense ones by name, those that have changed.
        seen: what layers see of their inputs, by name of the site.
        dropped: the sections that are left out.
        tokens: how many are left at the input of a layer.
        cores: the replaced arithmetic, by name of the section.
    """

    model: Model
    weights: Mapping[str, NDArray[Any]]
    seen: Mapping[str, Seen] = field(default_factory=dict)
    dropped: Sequence[Section] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    cores: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A built candidate against PyTorch.

    Attributes:
        error: the largest, of the largest output.
        moved: the largest difference that the compression makes in PyTorch, of the same.
        share: root mean square error, of what the compression does to the outputs.
    """

    error: float
    moved: float
    share: float

    def check(self, coarse: bool, own_sums: bool = False) -> None:
        least = 0.0 if own_sums else 3 * self.error
        assert self.moved > least, "what the compression does cannot be told from rounding"
        assert self.error <= (COARSE_LIMIT if coarse else EXACT_LIMIT)
        assert own_sums or self.share <= COARSE_SHARE


@dataclass(frozen=True)
class Network:
    """An architecture with what is needed to compress it."""

    module: torch.nn.Module
    subject: Subject

    @functools.cached_property
    def samples(self) -> list[dict[str, NDArray[Any]]]:
        return [draw(self.subject.model, seed) for seed in range(SAMPLES)]

    @functools.cached_property
    def simulator(self) -> Simulator:
        return Simulator(self.subject.model, self.subject.sites, host(), self.samples)

    @functools.cached_property
    def solver(self) -> LayerSolver:
        return LayerSolver(self.subject.model, self.simulator)

    def compressed(self, candidate: Candidate) -> Changes:
        """A candidate solved and rewritten."""
        model, sites = self.subject.model, self.subject.sites
        solved = solve_candidate(sites, self.simulator, self.solver, candidate, host())
        blocks, layers = solved.blocks, sites.layers
        made = rewrite_candidate(model, blocks, solved.dropped, host(), layers, solved.tokens)
        return Changes(
            made,
            {name: w for b in blocks for name, w in b.change.weights.items()},
            {name: seen for b in blocks for name, seen in b.change.seen.items()},
            solved.dropped,
            solved.tokens,
            {b.block.name: b.decision.core for b in blocks if b.decision.core},
        )

    def pruned(self, found: Applies) -> Changes:
        """A group of channels solved and pruned: the half of the offers."""
        model, group = self.subject.model, found.place
        consumers = {site.weight for site in group.consumers}
        grams = {}
        for segment in self.simulator.segments:
            stream = self.simulator.dense_stream(segment.name)
            for site in segment.linears:
                if site.weight in consumers:
                    grams[site.weight] = self.simulator.grams(stream, site.name)
        keep = _middle(found.offers)["channels"]
        (solved,) = solve_channels(model, group, grams, [keep])
        made, _ = prune_channels(model, {group: solved.keep}, solved.weights)
        return Changes(made, solved.weights)

    def in_pytorch(self, changes: Changes) -> Callable[[Sequence[NDArray[Any]]], Outputs]:
        """The original module, changed in the same way."""
        from benchmarks.models.twin import Twin

        sites = self.subject.sites
        twin = Twin(self.module, self.subject.model.weights)
        for site in sites.linears:
            if {site.weight, site.bias} & set(changes.weights):
                twin.put(site, changes.weights)
            if site.name in changes.seen:
                twin.see(site, changes.seen[site.name])
        for section in changes.dropped:
            twin.drop(_weights(section))
        for section in sites.layers:
            for part in section.parts:
                core = changes.cores.get(part.name)
                if core == INT8_ATTENTION:
                    twin.attend_int8(_weights(section))
                elif core == APPROXIMATE:
                    twin.approximate(_weights(section))
        layers = encoder_layers(sites.layers)
        for at, layer in enumerate(layers):
            if layer.name in changes.tokens:
                later = [_weights(x) for x in layers[at + 1 :]]
                twin.merge(changes.tokens[layer.name], _weights(layer), later)
        return twin

    def compare(self, changes: Changes) -> Comparison:
        """The compiled compressed graph against PyTorch, on an input that calibration has not seen."""
        named = draw(self.subject.model, seed=SAMPLES)
        inputs = list(named.values())
        (built,) = run(changes.model, inputs)
        (wanted,) = self.in_pytorch(changes)(inputs)
        (dense,) = self.in_pytorch(Changes(self.subject.model, {}))(inputs)
        if "attention_mask" in named:  # rows of padding mean nothing
            real = named["attention_mask"] != 0
            built, wanted, dense = built[real], wanted[real], dense[real]
        scale = np.abs(wanted).max()
        error, moved = np.abs(built - wanted) / scale, np.abs(wanted - dense) / scale
        return Comparison(error.max(), moved.max(), _rms(error) / _rms(moved))


def run(model: Model, inputs: Sequence[NDArray[Any]]) -> Outputs:
    """The outputs of a model that is lowered, scheduled and built for this machine."""
    lowered, executable = compile_model(model, host())
    machine = relax.VirtualMachine(executable, tvm.cpu())
    values = [tvm.runtime.tensor(v) for v in (*inputs, *lowered.weights.values())]
    return [t.numpy().astype(np.float64) for t in machine["main"](*values)]


def _weights(section: Section) -> list[str]:
    """Names of the weights of a section."""
    found = []
    for part in section.parts:
        names = ("qkv", "out", "up", "down")
        inside = [getattr(part, name) for name in names if hasattr(part, name)] or [part]
        found += [linear.weight for linear in inside]
    return found


def _middle(offers: Sequence[Any]) -> Any:
    """An offer that is neither the mildest nor the harshest, if there are three."""
    return offers[len(offers) // 2]


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(values).mean()))


@pytest.fixture(scope="module")
def networks(small: Callable[[str], Any]) -> Callable[[str], Network]:
    @functools.cache
    def make(name: str) -> Network:
        return Network(small(name).module, small(name).subject)

    return make


def applied(network: Network, family: Family, found: Applies) -> Changes:
    """The model compressed by a family where it applies first."""
    if family.setting is None:
        return network.pruned(found)
    choice = family.choice(found.place, _middle(found.offers))
    return network.compressed(Candidate((choice,)))


def mixture(subject: Subject, families: Sequence[Family]) -> tuple[Candidate, list[str]]:
    """A candidate with as many of the families as find a place of their own, and their names."""
    choices: list[Choice] = []
    names: list[str] = []
    for family in families:
        for place in family.places(subject):
            offers, _ = family.choices(place, host())
            choice = family.choice(place, _middle(offers)) if offers else None
            taken = {other.site for other in choices}
            if choice is not None and choice.site not in taken:
                choices.append(choice)
                names.append(family.name)
                break
    return Candidate(tuple(choices)), names


APART = {"layers", "tokens", "channels over the dependency graph", *OWN_SUMS}
"""Families that touch the whole model, or are judged otherwise, and have candidates of their own."""

TOGETHER = {("bert", False), ("bert", True), ("vgg16", False)}
ALONE = {
    ("bert", "tokens"),
    ("mobilenet_v2", "layers"),
    ("mobilenet_v2", "channels over the dependency graph"),
    ("bert", "float16"),
}
"""What runs by default; with both, each family does once. All else is slow."""


def _marked(cases: Iterable[tuple[Any, ...]], fast: Collection[tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(*c, marks=[] if c in fast else pytest.mark.slow) for c in cases]


def families(coarse: bool) -> list[Family]:
    """Those that a candidate can have together."""
    return [f for f in FAMILIES if f.name not in APART and (f.name in COARSE) == coarse]


@pytest.mark.parametrize(("name", "coarse"), _marked(product(SMALL, (False, True)), TOGETHER))
def test_families_together(networks: Callable[[str], Network], name: str, coarse: bool) -> None:
    network = networks(name)
    candidate, names = mixture(network.subject, families(coarse))
    assert len(names) >= 2
    network.compare(network.compressed(candidate)).check(coarse)


@pytest.mark.parametrize(("name", "family"), _marked(product(SMALL, BY_NAME), ALONE))
def test_each_family(networks: Callable[[str], Network], name: str, family: str) -> None:
    network = networks(name)
    found = verdict(BY_NAME[family], network.subject, host())
    if isinstance(found, str):
        pytest.skip(found)
    changes = applied(network, BY_NAME[family], found)
    network.compare(changes).check(family in COARSE, family in OWN_SUMS)


def test_each_family_is_among_what_runs_by_default(small: Callable[[str], Any]) -> None:
    covered = {family for _, family in ALONE}
    for name, coarse in TOGETHER:
        covered |= set(mixture(small(name).subject, families(coarse))[1])
    missing = set(BY_NAME) - covered
    if host().has_vnni and (host().has_bf16 or host().has_tiles):
        assert not missing
    else:
        assert missing <= COARSE
