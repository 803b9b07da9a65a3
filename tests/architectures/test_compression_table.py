"""The compression table: each family at each architecture where it applies, against the same in PyTorch.

What is compared, and how: `benchmarks.models.compressed`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import product
from typing import Any

import pytest

from benchmarks.applicability import FAMILIES, Applies, Family, Subject, verdict
from benchmarks.models.compressed import Changes, Network, middle
from benchmarks.models.zoo import SMALL
from codesign.candidate import Candidate, Choice
from targets.target import host

BY_NAME = {family.name: family for family in FAMILIES}

COARSE = {"int8, dynamic", "int8, static", "int8 attention", "bfloat16", "float16"}
"""Families that round activations: a number half way between two codes may become the other one, since
sums are in another order, and the difference is then a step of a code and what follows from it."""

OWN_SUMS = {"float16"}
"""Families whose kernel rounds its sums too, which PyTorch does not do here: that moves the outputs as much as
rounding the weights and the inputs does, so the one cannot be told by the other."""


SAME = {"fusion: what follows a product apart", "fusion: one pass over rows"}
"""Families that change no number."""


@pytest.fixture(scope="module")
def networks(small: Callable[[str], Any]) -> Callable[[str], Network]:
    @functools.cache
    def make(name: str) -> Network:
        return Network(small(name).module, small(name).subject)

    return make


def applied(network: Network, family: Family, found: Applies) -> Changes:
    """The model compressed by a family where it applies first."""
    if family.name in SAME:
        return network.fused(found.offers)
    if family.setting is None:
        return network.pruned(found)
    choice = family.choice(found.place, middle(found.offers))
    return network.compressed(Candidate((choice,)))


def mixture(subject: Subject, families: Sequence[Family]) -> tuple[Candidate, list[str]]:
    """A candidate with as many of the families as find a place of their own, and their names."""
    choices: list[Choice] = []
    names: list[str] = []
    for family in families:
        for place in family.places(subject):
            offers, _ = family.choices(place, host())
            choice = family.choice(place, middle(offers)) if offers else None
            taken = {other.site for other in choices}
            if choice is not None and choice.site not in taken:
                choices.append(choice)
                names.append(family.name)
                break
    return Candidate(tuple(choices)), names


APART = {"layers", "tokens", "channels over the dependency graph", *OWN_SUMS, *SAME}
"""Families that touch the whole model, or are judged otherwise, and have candidates of their own."""

TOGETHER = {("bert", False), ("bert", True), ("vgg16", False)}
ALONE = {
    ("bert", "tokens"),
    ("mobilenet_v2", "layers"),
    ("mobilenet_v2", "channels over the dependency graph"),
    ("bert", "float16"),
    ("bert", "layer norm as an affine map"),
    ("bert", "fusion: one pass over rows"),
    ("vgg16", "fusion: what follows a product apart"),
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
    for output in network.compare(network.compressed(candidate)):
        output.check(coarse)


@pytest.mark.parametrize(("name", "family"), _marked(product(SMALL, BY_NAME), ALONE))
def test_each_family(networks: Callable[[str], Network], name: str, family: str) -> None:
    network = networks(name)
    found = verdict(BY_NAME[family], network.subject, host())
    if isinstance(found, str):
        pytest.skip(found)
    changes = applied(network, BY_NAME[family], found)
    for output in network.compare(changes):
        output.check(family in COARSE, family in OWN_SUMS, family in SAME)


def test_each_family_is_among_what_runs_by_default(small: Callable[[str], Any]) -> None:
    covered = {family for _, family in ALONE}
    for name, coarse in TOGETHER:
        covered |= set(mixture(small(name).subject, families(coarse))[1])
    missing = set(BY_NAME) - covered
    if host().has_vnni and (host().has_bf16 or host().has_tiles):
        assert not missing
    else:
        assert missing <= COARSE
