"""Shorter sequences in the loop: predicted kernels are those of the model that is really built."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from codesign.candidate import Candidate
from codesign.loop.blocks import Decision, blocks_of, decision_of, tokens_kept
from codesign.loop.costs import KernelBook, placeholder
from codesign.loop.layer_solver import LayerSolver, rows_of
from codesign.loop.lengths import MOST_DECISIONS, lengths_of, looked_at, with_lengths, worthwhile
from codesign.loop.rewrite import rewrite_block, rewrite_candidate
from codesign.loop.sensitivity import (
    Sensitivities,
    SensitivityProbe,
    drop_candidate,
    single,
    tokens_candidate,
)
from codesign.loop.solver import solve_candidate
from codesign.loop.tables import Space, space_of, tables_of
from codesign.search import Tables, solve
from codesign.simulate import Simulator
from passes.find_sites import find_sites
from passes.layers import drop_layers
from passes.tokens import keep_tokens
from targets.target import KNOWN, find

TARGET = KNOWN["znver4"]
Time = Callable[[Mapping[str, int]], float]


@pytest.fixture(scope="module")
def net(encoder: Callable[..., Any]) -> Any:
    return encoder(layers=3, seq=64, width=64, heads=2, hidden=64)


@pytest.fixture(scope="module")
def space(net: Any) -> Space:
    enabled = ("tokens", "ffn", "layers", "int8")
    return space_of(net.model, find_sites(net.model), TARGET, enabled)


@pytest.fixture(scope="module")
def seconds(space: Space) -> Time:
    """A made-up time: elements of a kernel's arguments, in microseconds each."""

    def one(kernel: str) -> float:
        params = space.book.known[kernel].func.params
        size = sum(math.prod(int(d) for d in p.shape) for p in params)
        codes = any("int8" in str(p.dtype) for p in params)
        return 1e-6 * size * (0.5 if codes else 1)

    return lambda counts: sum(n * one(k) for k, n in counts.items())


@pytest.fixture(scope="module")
def sensitivities(space: Space) -> Sensitivities:
    values = {drop_candidate(layer).key: 0.5 for layer in space.layers}
    for layer in space.layers:
        for length in space.lengths[1:]:
            values[tokens_candidate(layer, length).key] = 1 / length
        for block in blocks_of(layer):
            for decision in single(space.offers[block.name]):
                values[Candidate(decision.choices(block)).key] = 0.01
    return Sensitivities(values)


@pytest.fixture(scope="module")
def tables(net: Any, space: Space, sensitivities: Sensitivities, seconds: Time) -> Tables:
    full = tables_of(space, sensitivities, seconds)
    lengths = lengths_of(net.model, space, full, TARGET)
    return with_lengths(full, space, lengths, sensitivities, seconds)


def built(net: Any, space: Space, candidate: Candidate) -> Mapping[str, int]:
    """Kernels of the model that a candidate leads to; weights do not matter."""
    model, target = net.model, TARGET
    layers = find_sites(model).layers
    keep = {x.name: n for x in layers if (n := tokens_kept(candidate, x.name)) is not None}
    if keep:
        model = keep_tokens(model, layers, keep, target)[0]
    gone = [x for x in layers if drop_candidate(x).choices[0] in candidate.choices]
    for block in (b for x in layers if x not in gone for b in blocks_of(x)):
        decision = decision_of(candidate, block, target)
        units = None if decision.keep is None else np.arange(decision.keep)
        rows = rows_of(block, units)
        first = placeholder(block.first, decision.first, len(rows.first), block.first.in_features)
        second = placeholder(
            block.second, decision.second, block.second.out_features, len(rows.second)
        )
        model = rewrite_block(model, block, units, first, second, target, decision.core)
    model = drop_layers(model, gone)[0] if gone else model
    return space.book.count(model, target)


def test_offers(space: Space) -> None:
    assert space.lengths == (64, 48, 32, 16)
    assert not space.no_lengths


def test_a_few_of_what_is_not_vetoed_are_looked_at_again(space: Space, tables: Tables) -> None:
    full = tables_without(tables)
    few = looked_at(space, full)
    for group in tables.groups:
        if group.shortens:
            assert len(group.options) == 4
            continue
        offers = space.offers[group.name]
        assert len(worthwhile(space, full)[group.name].decisions()) <= len(offers.decisions())
        measured = {
            d
            for d, o in zip(offers.decisions(), group.options, strict=True)
            if math.isfinite(o.at(2))
        }
        assert measured == set(few[group.name])
        assert few[group.name][0] == Decision()
        assert 1 < len(measured) <= 1 + MOST_DECISIONS
        free = [o for o in group.options if not o.veto]
        assert any(o.veto for o in group.options)
        fastest = min(free, key=lambda o: o.seconds)
        assert math.isfinite(fastest.at(2))
    assert few["layer0.ffn"] is few["layer2.ffn"]


def tables_without(tables: Tables) -> Tables:
    """The tables as they were before lengths came in."""
    from dataclasses import replace

    layers = tuple(replace(x, groups=x.groups[1:]) for x in tables.layers)
    return replace(tables, layers=layers)


@pytest.mark.parametrize("seed", range(6))
def test_predicted_kernels_are_those_built(
    net: Any, space: Space, tables: Tables, seconds: Time, seed: int
) -> None:
    """Random plans; of a second merge the tables do not know that all tokens are given back once."""
    rng = random.Random(seed)
    picks: list[int] = []
    length = 0
    for i, layer in enumerate(tables.layers):
        if i == 2 and seed == 3:
            picks += [-1] * 3
            continue
        shorten = rng.choice([0, *range(length + 1, 4)]) if i == seed % 3 or seed > 3 else 0
        length = shorten or length
        own = [shorten]
        for group in layer.groups[1:]:
            free = [k for k, o in enumerate(group.options) if math.isfinite(o.at(length))]
            own.append(rng.choice([k for k in free if not group.options[k].veto] or [0]))
        picks += own
    candidate = tables.candidate(tuple(picks))
    wanted = seconds(built(net, space, candidate))
    merges = sum(c.pass_name == "tokens" for c in candidate)
    got = tables.totals(tuple(picks))[0]
    assert got == pytest.approx(wanted, rel=1e-6 if merges <= 1 else 0.05)


def test_shortening_comes_out_of_the_search(tables: Tables) -> None:
    plans = solve(tables)
    names = {c.pass_name for plan in plans for c in tables.candidate(plan.picks)}
    assert "tokens" in names
    fastest = tables.candidate(solve(tables, max_error=0.2)[0].picks)
    assert any(c.pass_name == "tokens" for c in fastest)


def test_nothing_is_offered_where_the_pass_is_off(net: Any) -> None:
    space = space_of(net.model, find_sites(net.model), TARGET, ("ffn",))
    assert space.lengths == ()


def test_a_reason_where_it_cannot_be(encoder: Callable[..., Any]) -> None:
    model = encoder(layers=1, seq=16, width=64, heads=2, hidden=64).model
    space = space_of(model, find_sites(model), TARGET, ("tokens",))
    assert space.lengths == ()
    assert "merges none" in space.refusals[0].reason


def test_sensitivities_are_simulated(net: Any, tmp_path: Any) -> None:
    from codesign.records import Records
    from codesign.records.entries import SensitivityKey

    simulator = Simulator(net.model, net.sites, find("host"), [net.sample(s) for s in (0, 1)])
    solver = LayerSolver(net.model, simulator)
    with Records(tmp_path / "records.sqlite") as records:
        key = lambda c: SensitivityKey("m", c, "data", "1")  # noqa: E731
        probe = SensitivityProbe(lambda: simulator, lambda: solver, records, key, (48, 8))
        layer = net.sites.layers[1]
        offers = {b.name: _nothing() for b in blocks_of(layer)}
        found = probe.layers([layer], offers, False, lambda name: None)
    assert set(found) == {tokens_candidate(layer, n).key for n in (48, 8)}
    stream = simulator.merge(simulator.dense_stream("layer1"), 8)
    assert found[tokens_candidate(layer, 8).key] == pytest.approx(simulator.output_error(stream))
    assert found[tokens_candidate(layer, 8).key] > found[tokens_candidate(layer, 48).key] >= 0


def _nothing() -> Any:
    from codesign.loop.offers import Offers
    from passes.formats import DENSE

    return Offers((None,), (DENSE,), (DENSE,), ())


def test_a_candidate_is_solved_for_the_tokens_left(encoder: Callable[..., Any]) -> None:
    """The simulated error is that of the model that is built, and refitting makes it smaller."""
    net = encoder(layers=3, seq=20, width=24, heads=2, hidden=40)
    samples = [net.sample(s) for s in range(6)]
    simulator = Simulator(net.model, net.sites, find("host"), samples)
    solver = LayerSolver(net.model, simulator)
    layer = net.sites.layers[1]
    candidate = tokens_candidate(layer, 6)
    solved = solve_candidate(net.sites, simulator, solver, candidate, find("host"))
    assert solved.tokens == {"layer1": 6}
    model = rewrite_candidate(
        net.model, solved.blocks, solved.dropped, find("host"), net.sites.layers, solved.tokens
    )
    error = power = plain = 0.0
    for sample in samples:
        mask = sample["attention_mask"] != 0
        dense = net.reference(sample)[mask]
        got = net.reference(sample, model.weights, keep={1: 6})[mask]
        error += np.square(got - dense).sum()
        plain += np.square(net.reference(sample, keep={1: 6})[mask] - dense).sum()
        power += np.square(dense).sum()
    assert solved.output_error == pytest.approx(error / power, rel=1e-2)
    assert error < plain


def test_the_book_knows_the_kernels_of_merging(space: Space, tables: Tables) -> None:
    assert isinstance(space.book, KernelBook)
    names = {kernel.name for kernel in space.book.known.values()}
    assert {"merge_tokens", "gather_rows"} <= names
