"""The search's tables, filled with times that are made up but add up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from codesign.candidate import Candidate
from codesign.loop.blocks import Decision, blocks_of
from codesign.loop.sensitivity import Sensitivities, drop_candidate, single
from codesign.loop.tables import Space, space_of, tables_of
from passes.find_sites import find_sites
from targets.target import KNOWN

TARGET = KNOWN["znver4"]


@pytest.fixture(scope="module")
def space(encoder: Callable[..., Any]) -> Space:
    model = encoder(layers=2, seq=16, width=64, heads=4, hidden=96).model
    seen: list[str] = []
    found = space_of(model, find_sites(model), TARGET, ("ffn", "layers"), None, seen.append)
    assert seen == ["layer0", "layer1"]
    return found


def work(space: Space) -> Callable[[Mapping[str, int]], float]:
    """A made-up time: bytes of a kernel's weights and activations, in picoseconds each."""

    def one(kernel: str) -> float:
        params = space.book.known[kernel].func.params
        return 1e-12 * sum(math.prod(int(d) for d in p.shape) for p in params)

    return lambda counts: sum(n * one(k) for k, n in counts.items())


@pytest.fixture(scope="module")
def sensitivities(space: Space) -> Sensitivities:
    values = {drop_candidate(layer).key: 0.5 for layer in space.layers}
    for layer in space.layers:
        for block in blocks_of(layer):
            for decision in single(space.offers[block.name]):
                loss = 1.0 - (decision.keep or block.units) / block.units
                values[Candidate(decision.choices(block)).key] = 0.1 * loss
    return Sensitivities(values)


def test_no_decision_costs_what_the_dense_model_does(
    space: Space, sensitivities: Sensitivities
) -> None:
    tables = tables_of(space, sensitivities, work(space))
    seconds, error = tables.totals((0,) * len(tables.groups))
    assert seconds == pytest.approx(work(space)(space.dense))
    assert error == 0.0
    assert not tables.candidate((0,) * len(tables.groups)).choices


def test_an_option_costs_what_its_kernels_do(space: Space, sensitivities: Sensitivities) -> None:
    tables, seconds = tables_of(space, sensitivities, work(space)), work(space)
    names = [group.name for group in tables.groups]
    at = names.index("layer1.ffn")
    for i, decision in enumerate(space.offers["layer1.ffn"].decisions()):
        picks = tuple(i if n == at else 0 for n in range(len(names)))
        kernels = dict(space.dense)
        for kernel, n in space.kernels["layer1.ffn"].of(decision).items():
            kernels[kernel] = kernels.get(kernel, 0) + n
        assert min(kernels.values()) >= 0
        assert tables.totals(picks)[0] == pytest.approx(seconds(kernels))
        assert tables.groups[at].options[i].choices == decision.choices(
            blocks_of(space.layers[1])[1]
        )


def test_a_dropped_layer_costs_nothing(space: Space, sensitivities: Sensitivities) -> None:
    tables, seconds = tables_of(space, sensitivities, work(space)), work(space)
    saved = tables.totals((0, 0, 0, 0))[0] - tables.totals((-1, -1, 0, 0))[0]
    assert saved == pytest.approx(seconds(space.untouched["layer0"]))
    assert tables.totals((-1, -1, 0, 0))[1] == 0.5


def test_the_error_of_a_decision_is_the_sum_of_its_parts(
    space: Space, sensitivities: Sensitivities
) -> None:
    block = blocks_of(space.layers[0])[1]
    assert sensitivities.of(block, Decision()) == 0.0
    for decision in single(space.offers[block.name]):
        assert sensitivities.of(block, decision) > 0
    with pytest.raises(KeyError):
        sensitivities.of(block, Decision(keep=1))  # nothing is made up for what was not measured


def test_what_cannot_be_measured_is_vetoed(space: Space, sensitivities: Sensitivities) -> None:
    broken = {k for c in space.kernels["layer0.ffn"].kept.values() for k in c} - set(space.dense)
    assert broken

    def seconds(counts: Mapping[str, int]) -> float:
        return math.inf if any(counts.get(k) for k in broken) else work(space)(counts)

    tables = tables_of(space, sensitivities, seconds)
    group = next(g for g in tables.groups if g.name == "layer0.ffn")
    assert not group.options[0].veto
    assert all("could not be measured" in o.veto for o in group.options[1:])


def test_what_a_format_cannot_say_is_vetoed(space: Space, sensitivities: Sensitivities) -> None:
    block = blocks_of(space.layers[0])[1]
    beyond = single(space.offers[block.name])[0]
    values = sensitivities.values | {Candidate(beyond.choices(block)).key: math.inf}
    tables = tables_of(space, Sensitivities(values), work(space))
    group = next(g for g in tables.groups if g.name == block.name)
    refused = [o for o in group.options if "exceed what the format can say" in o.veto]
    assert [o.choices for o in refused] == [beyond.choices(block)]
    assert all(math.isfinite(o.error) for o in group.options)


def test_layers_of_one_shape_share_their_kernels(space: Space) -> None:
    assert space.kernels["layer0.ffn"] is space.kernels["layer1.ffn"]
    assert space.untouched["layer0"] == space.untouched["layer1"]


def test_layers_stay_where_the_pass_is_not_enabled(encoder: Callable[..., Any]) -> None:
    model = encoder(layers=1, seq=16, width=64, heads=4, hidden=96).model
    space = space_of(model, find_sites(model), TARGET, ())
    tables = tables_of(space, Sensitivities({}), lambda counts: float(sum(counts.values())))
    assert [layer.drop for layer in tables.layers] == [None]
    assert [len(g.options) for g in tables.groups] == [1, 1]
