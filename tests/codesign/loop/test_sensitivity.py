"""What each single decision does to the outputs, measured once and then recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codesign.candidate import Candidate
from codesign.loop.blocks import Decision, block_of, decision_of
from codesign.loop.layer_solver import LayerSolver
from codesign.loop.offers import Offers, offers_for
from codesign.loop.sensitivity import SAMPLES, SensitivityProbe, drop_candidate, single
from codesign.loop.solver import solve_layer
from codesign.records import Records
from codesign.records.entries import SensitivityKey
from codesign.simulate import Simulator
from passes.bf16 import Bf16
from passes.find_sites import find_sites
from passes.formats import DENSE
from passes.fp16 import Fp16
from passes.int8 import Int8
from passes.sites import Layer
from passes.sparse import Sparse
from targets.target import host


@pytest.fixture(scope="module")
def simulator(encoder: Callable[..., Any]) -> Simulator:
    made = encoder(layers=2, seq=11, width=64, heads=4, hidden=96)
    samples = [made.sample(seed) for seed in range(80)]
    return Simulator(made.model, find_sites(made.model), host(), samples)


@pytest.fixture(scope="module")
def layer(encoder: Callable[..., Any]) -> Layer:
    return find_sites(encoder(layers=2, seq=11, width=64, heads=4, hidden=96).model).layers[0]


@pytest.fixture(scope="module")
def solver(encoder: Callable[..., Any], simulator: Simulator) -> LayerSolver:
    return LayerSolver(encoder(layers=2, seq=11, width=64, heads=4, hidden=96).model, simulator)


def key(candidate: Candidate) -> SensitivityKey:
    return SensitivityKey("model", candidate, "calibration", "1")


def offers(layer: Layer, *passes: str) -> dict[str, Offers]:
    return {s.name: offers_for(block_of(s), host(), passes) for s in (layer.attention, layer.ffn)}


def test_more_compression_moves_the_outputs_more(
    layer: Layer, simulator: Simulator, solver: LayerSolver, tmp_path: Path
) -> None:
    half, quarter, int8 = Sparse(0.5, 32), Sparse(0.25, 32), Int8(1.0, 32)
    formats = (DENSE, half, quarter, int8)
    offered = {
        layer.attention.name: Offers((None,), (DENSE,), (DENSE,), ()),
        layer.ffn.name: Offers((None, 64, 32), formats, formats, ()),
    }
    with Records(tmp_path / "r.sqlite") as records:
        probe = SensitivityProbe(lambda: simulator, lambda: solver, records, key)
        found = probe.layers([layer], offered, True, lambda name: None)

    def error(**decision: Any) -> float:
        return found[Candidate(Decision(**decision).choices(block_of(layer.ffn))).key]

    assert 0 < error(keep=64) < error(keep=32) < found[drop_candidate(layer).key]
    assert 0 < error(first=int8) < error(first=half) < error(first=quarter)
    assert 0 < error(second=int8) < error(second=half) < error(second=quarter)


def test_a_single_decision_is_judged_about_as_the_solver_would_solve_it(
    layer: Layer, simulator: Simulator, solver: LayerSolver, tmp_path: Path
) -> None:
    with Records(tmp_path / "r.sqlite") as records:
        probe = SensitivityProbe(lambda: simulator, lambda: solver, records, key)
        found = probe.layers([layer], offers(layer, "ffn", "heads"), False, lambda name: None)
    candidate = Candidate(Decision(keep=64).choices(block_of(layer.ffn)))
    assert decision_of(candidate, block_of(layer.ffn), host()) == Decision(keep=64)
    _, change = solve_layer(solver, simulator.dense_stream(layer.name), layer, candidate, host())
    whole = simulator.sensitivity(layer.name, change, SAMPLES)
    # the solver damps more, for it does not know that nothing before this block has drifted
    assert found[candidate.key] == pytest.approx(whole, rel=0.25)


def test_what_is_recorded_is_not_computed_again(
    layer: Layer, simulator: Simulator, solver: LayerSolver, tmp_path: Path
) -> None:
    def refuse() -> Any:
        raise AssertionError("the simulator was made although all is known")

    offered, steps = offers(layer, "ffn"), list[str]()
    wanted = 1 + sum(len(single(o)) for o in offered.values())
    with Records(tmp_path / "r.sqlite") as records:
        probe = SensitivityProbe(lambda: simulator, lambda: solver, records, key)
        first = probe.layers([layer], offered, True, steps.append)
        again = SensitivityProbe(refuse, refuse, records, key)
        assert again.layers([layer], offered, True, steps.append) == first
    assert len(first) == wanted
    assert steps == [layer.name] * 2


def test_a_format_that_cannot_say_the_numbers_is_not_even_solved(
    layer: Layer, simulator: Simulator, encoder: Callable[..., Any], tmp_path: Path
) -> None:
    model = encoder(layers=2, seq=11, width=64, heads=4, hidden=96).model
    weight = model.weights[layer.ffn.down.weight].copy()
    weight[3, 5] = 7e4
    large = replace(model, weights=dict(model.weights) | {layer.ffn.down.weight: weight})
    solver, half = LayerSolver(large, simulator), (DENSE, Fp16(), Bf16())
    offered = {
        layer.attention.name: Offers((None,), (DENSE,), (DENSE,), ()),
        layer.ffn.name: Offers((None,), half, half, ()),
    }
    with Records(tmp_path / "r.sqlite") as records:
        probe = SensitivityProbe(lambda: simulator, lambda: solver, records, key)
        found = probe.layers([layer], offered, False, lambda name: None)
        again = SensitivityProbe(lambda: simulator, lambda: solver, records, key)
        assert again.layers([layer], offered, False, lambda name: None) == found

    def error(**decision: Any) -> float:
        return found[Candidate(Decision(**decision).choices(block_of(layer.ffn))).key]

    assert error(second=Fp16()) == math.inf
    assert math.isfinite(error(second=Bf16()))
    assert 0 < error(first=Fp16()) < 0.1 * error(first=Bf16())


def test_single_decisions_change_one_thing() -> None:
    form = Int8(1.0, 32)
    found = single(Offers((None, 2), (DENSE, form), (DENSE, form), ()))
    assert found == [Decision(2), Decision(first=form), Decision(second=form)]
