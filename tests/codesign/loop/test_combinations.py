"""Combinations whose kernels depend on both layers of a block: lowered whole where they are worth it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from codesign.candidate import Candidate
from codesign.loop.blocks import Decision, blocks_of
from codesign.loop.combinations import is_estimate, lower_whole, measured_whole
from codesign.loop.costs import KernelBook, layer_model, with_decision
from codesign.loop.offers import Offers
from codesign.loop.sensitivity import Sensitivities, single
from codesign.loop.tables import Space, space_of, tables_of
from codesign.search import Tables
from passes.find_sites import find_sites
from passes.formats import DENSE
from passes.int8_static import Int8Static
from passes.model import Model
from targets.target import KNOWN

TARGET = KNOWN["znver4"]
STATIC = Int8Static(1.0, TARGET.block)
FORMATS = (DENSE, STATIC)
NOTHING = Offers((None,), (DENSE,), (DENSE,), ())
FFNS = ("layer0.ffn", "layer1.ffn")

Times = Callable[[Mapping[str, int]], float]


@pytest.fixture(scope="module")
def model(encoder: Callable[..., Any]) -> Model:
    return encoder(layers=2, seq=16, width=64, heads=4, hidden=96).model


@pytest.fixture
def space(model: Model) -> Space:
    sites = find_sites(model)
    offers = {b.name: NOTHING for layer in sites.layers for b in blocks_of(layer)}
    offers |= dict.fromkeys(FFNS, Offers((None, 64), FORMATS, FORMATS, ()))
    return space_of(model, sites, TARGET, ("ffn",), offers)


def errors(space: Space) -> Sensitivities:
    """Codes lose the less the more units there are."""
    values = {}
    for layer in space.layers:
        for block in blocks_of(layer):
            for decision in single(space.offers[block.name]):
                lost = 1e-3 * (decision.first != DENSE) + 1e-3 * (decision.second != DENSE)
                lost += 0.1 * (decision.keep is not None)
                values[Candidate(decision.choices(block)).key] = lost
    return Sensitivities(values)


def times(space: Space, slow: Callable[[str], bool] = lambda _: False) -> Times:
    """Bytes of a kernel's operands in nanoseconds each, a hundred times that where it is ``slow``."""

    def one(kernel: str) -> float:
        unit = space.book.known[kernel]
        size = sum(
            np.dtype(str(p.dtype)).itemsize * math.prod(int(d) for d in p.shape)
            for p in unit.func.params
        )
        return 1e-9 * size * (100 if slow(kernel) else 1)

    return lambda counts: sum(n * one(k) for k, n in counts.items() if n)


def lowered(model: Model, space: Space, decision: Decision) -> Counter[str]:
    layer = space.layers[0]
    changed = with_decision(layer_model(model, layer), blocks_of(layer)[1], decision, TARGET)
    return KernelBook().count(changed, TARGET)


def really(space: Space, decision: Decision) -> Counter[str]:
    kernels = space.kernels[FFNS[0]]
    total = Counter(kernels.untouched)
    total.update(kernels.of(decision))
    return Counter({k: n for k, n in total.items() if n})


def test_what_is_left_is_what_is_really_lowered(model: Model, space: Space) -> None:
    both = Decision(None, STATIC, STATIC)
    assert is_estimate(both)
    assert not is_estimate(Decision(64, STATIC))
    assert is_estimate(Decision(first=STATIC, core="approximate"))
    assert really(space, both) != lowered(model, space, both)
    tables = measured_whole(
        model, space, TARGET, lambda: tables_of(space, errors(space), times(space)), lambda: None
    )
    decisions = space.offers[FFNS[0]].decisions()
    (options,) = [group.options for group in tables.groups if group.name == FFNS[0]]
    left = [d for d, o in zip(decisions, options, strict=True) if not o.veto and is_estimate(d)]
    assert both in left
    for decision in left:
        assert really(space, decision) == lowered(model, space, decision)
    assert not lower_whole(model, space, tables, TARGET)


def test_layers_of_one_shape_are_lowered_once(model: Model, space: Space) -> None:
    tables = tables_of(space, errors(space), times(space))
    assert lower_whole(model, space, tables, TARGET)
    assert space.kernels[FFNS[0]].whole
    assert space.kernels[FFNS[0]] is space.kernels[FFNS[1]]


def test_what_turns_out_slow_lets_others_in_again(model: Model, space: Space) -> None:
    both = Decision(None, STATIC, STATIC)
    estimated = set(space.book.known)  # what only the combination has is slow
    filled: list[Tables] = []

    def fill() -> Tables:
        filled.append(tables_of(space, errors(space), times(space, lambda k: k not in estimated)))
        return filled[-1]

    measured_whole(model, space, TARGET, fill, lambda: None)
    at = space.offers[FFNS[0]].decisions().index(both)
    first, last = (
        next(g for g in tables.groups if g.name == FFNS[0]).options[at]
        for tables in (filled[0], filled[-1])
    )
    assert not first.veto
    assert last.veto
    assert last.seconds > first.seconds
    assert len(filled) > 1
