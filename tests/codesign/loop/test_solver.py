"""The model that is built computes what the simulator said of the candidate: the loop's keystone."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.candidate import Candidate, Choice
from codesign.loop.blocks import DROP, dropped
from codesign.loop.layer_solver import LayerSolver
from codesign.loop.rewrite import rewrite_candidate
from codesign.loop.solver import SolvedCandidate, solve_candidate, solve_layer, solve_side_by_side
from codesign.pipeline import compile_model
from codesign.simulate import Simulator, Variant
from passes.model import Model
from targets.target import KNOWN, Target, host

Outputs = list[NDArray[np.float32]]


def choices(**by_site: Any) -> Candidate:
    """``layer0_ffn={"ffn": {"keep": 64}}`` as a candidate."""
    found = []
    for site, passes in by_site.items():
        found += [Choice(site.replace("_", "."), p, s) for p, s in passes.items()]
    return Candidate(tuple(found))


PRUNED = choices(layer0_attention={"heads": {"keep": 2}}, layer1_ffn={"ffn": {"keep": 64}})
INT8 = Candidate(
    tuple(
        Choice(f"layer{i}.{part}", "int8")
        for i in range(2)
        for part in ("attention.qkv", "attention.out", "ffn.up", "ffn.down")
    )
)
INT8_ATTENTION = choices(
    layer0_attention={"int8_attention": {}, "heads": {"keep": 2}},
    layer1_attention={"int8_attention": {}},
    layer1_attention_qkv={"int8": {}},
)
SPARSE = choices(
    layer0_attention_qkv={"sparse": {"density": 0.5}},
    layer0_ffn_down={"sparse": {"density": 0.25}},
    layer1_ffn_up={"sparse": {"density": 0.5}},
)
SPARSE_INT8 = choices(
    layer0_ffn_up={"int8": {"density": 0.5}}, layer1_attention_out={"int8": {"density": 0.25}}
)
STATIC = choices(
    layer0_attention_qkv={"int8_static": {}},
    layer0_attention_out={"int8_static": {"method": "percentile 99.9"}},
    layer0_ffn={"ffn": {"keep": 64}},
    layer0_ffn_up={"int8_static": {"density": 0.5}},
    layer0_ffn_down={"int8_static": {}},
    layer1_attention={"heads": {"keep": 3}, "int8_attention": {}},
    layer1_attention_out={"int8_static": {}},
    layer1_ffn_up={"int8": {}},
    layer1_ffn_down={"int8_static": {}},
)
HALF = choices(
    layer0_attention_qkv={"bf16": {}},
    layer0_attention_out={"fp16": {}},
    layer0_ffn={"ffn": {"keep": 64}},
    layer0_ffn_up={"fp16": {}},
    layer0_ffn_down={"bf16": {}},
    layer1_attention={"heads": {"keep": 3}},
    layer1_attention_out={"fp16": {}},
    layer1_ffn_up={"int8": {}},
    layer1_ffn_down={"fp16": {}},
)
DROPPED = choices(layer0={DROP: {"drop": True}}, layer1_ffn_up={"int8": {}})
LAST_DROPPED = choices(layer1={DROP: {"drop": True}}, layer0_ffn={"ffn": {"keep": 32}})
MIXED = choices(
    layer0_attention={"heads": {"keep": 3}, "int8_attention": {}},
    layer0_attention_qkv={"int8": {"density": 0.5}},
    layer0_attention_out={"sparse": {"density": 0.5}},
    layer0_ffn={"ffn": {"keep": 64}},
    layer0_ffn_up={"int8": {}},
    layer0_ffn_down={"int8": {"density": 0.5}},
    layer1_attention={"heads": {"keep": 1}},
    layer1_attention_out={"int8": {}},
    layer1_ffn={"ffn": {"keep": 64}},
    layer1_ffn_up={"sparse": {"density": 0.5}},
)
NORM = choices(
    layer0_attention={"norm": {}, "int8_attention": {}},
    layer0_attention_out={"int8": {}},
    layer1_ffn={"norm": {}, "approximate": {}, "ffn": {"keep": 64}},
    layer1_ffn_down={"int8_static": {}},
)
REPLACED = choices(
    layer0_attention={"approximate": {}, "heads": {"keep": 2}},
    layer0_ffn={"approximate": {}},
    layer1_attention={"approximate": {}, "norm": {}},
    layer1_attention_out={"sparse": {"density": 0.5}},
)
CANDIDATES = {
    "dense": Candidate(),
    "pruned": PRUNED,
    "int8": INT8,
    "int8 attention": INT8_ATTENTION,
    "sparse": SPARSE,
    "sparse int8": SPARSE_INT8,
    "static int8": STATIC,
    "first layer dropped": DROPPED,
    "last layer dropped": LAST_DROPPED,
    "norm": NORM,
    "operators replaced": REPLACED,
    "mixed": MIXED,
}


@pytest.fixture(scope="module")
def net(encoder: Callable[..., Any]) -> Any:
    """Named as `find_sites` names: two layers, 4 heads of 16, 96 neurons."""
    from passes.find_sites import find_sites

    made = encoder(layers=2, seq=11, width=64, heads=4, hidden=96)
    made.sites = find_sites(made.model)
    return made


@pytest.fixture(scope="module")
def samples(net: Any) -> list[dict[str, Any]]:
    return [net.sample(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def simulator(net: Any, samples: list[dict[str, Any]]) -> Simulator:
    return Simulator(net.model, net.sites, host(), samples)


def run(model: Model, target: Target, samples: list[dict[str, Any]]) -> Outputs:
    """The outputs of a model that is really lowered, scheduled and built."""
    lowered, executable = compile_model(model, target)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    weights = [tvm.runtime.tensor(w) for w in lowered.weights.values()]
    found = []
    for sample in samples:
        inputs = [tvm.runtime.tensor(np.asarray(sample[s.name], s.dtype)) for s in lowered.inputs]
        found.append(machine["main"](*inputs, *weights)[0].numpy())
    return found


def simulated(net: Any, simulator: Simulator, candidate: Candidate, target: Target) -> Outputs:
    """The same candidate layer by layer in the dense domain."""
    solver = LayerSolver(net.model, simulator)
    gone = dropped(candidate, net.sites)
    layers = {layer.name: layer for layer in net.sites.layers}
    stream = simulator.dense_stream(simulator.segments[0].name)
    for segment in simulator.segments:
        change = Variant()
        if segment.name in gone:
            change = Variant(dropped=True)
        elif segment.name in layers:
            _, change = solve_layer(solver, stream, layers[segment.name], candidate, target)
        stream = simulator.advance(stream, change)
    return [np.asarray(outputs[0]) for outputs in simulator.outputs(stream)]


def solve(net: Any, simulator: Simulator, candidate: Candidate, target: Target) -> SolvedCandidate:
    solver = LayerSolver(net.model, simulator)
    return solve_candidate(net.sites, simulator, solver, candidate, target)


def compact(net: Any, solved: SolvedCandidate, target: Target) -> Model:
    return rewrite_candidate(net.model, solved.blocks, solved.dropped, target)


def assert_same(built: Outputs, wanted: Outputs, quantized: bool) -> None:
    """Equal to 1e-4 of the output scale.

    Where activations are quantised, a value half way between two steps may be rounded to the other
    one, because sums are in another order: then a few tokens differ by no more than such a step.
    """
    mine, theirs = (np.concatenate(a).reshape(-1, a[0].shape[-1]) for a in (built, wanted))
    error = np.abs(mine - theirs).max(axis=1) / np.abs(theirs).max()
    if not quantized:
        assert error.max() <= 1e-4
    else:
        assert np.mean(error <= 1e-4) >= 0.9
        assert error.max() <= 5e-3


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_built_model_computes_what_was_simulated(
    net: Any, simulator: Simulator, samples: list[dict[str, Any]], name: str
) -> None:
    candidate, target = CANDIDATES[name], host()
    solved = solve(net, simulator, candidate, target)
    wanted = simulated(net, simulator, candidate, target)
    built = run(compact(net, solved, target), target, samples)
    scale = max(float(np.abs(w).max()) for w in wanted)
    dense = [net.reference(s) for s in samples]
    moved = max(float(np.abs(w - d).max()) for w, d in zip(wanted, dense, strict=True))
    assert (moved > 1e-3 * scale) == bool(candidate.choices)  # or the comparison would show nothing
    assert_same(built, wanted, quantized=any(c.pass_name.startswith("int8") for c in candidate))


def test_half_precision_computes_what_was_simulated_but_for_its_sums(
    net: Any, simulator: Simulator, samples: list[dict[str, Any]]
) -> None:
    """Short sums in float16 are off by a thousandth, which the simulator does not know."""
    target = host()
    solved = solve(net, simulator, HALF, target)
    wanted = simulated(net, simulator, HALF, target)
    built = run(compact(net, solved, target), target, samples)
    scale = max(float(np.abs(w).max()) for w in wanted)
    off = np.concatenate([np.abs(b - w).ravel() for b, w in zip(built, wanted, strict=True)])
    assert (
        off.max() <= 1e-2 * scale
    )  # one number of thousands; how far depends on the order of sums
    assert np.sqrt(np.square(off).mean()) <= 1e-3 * scale


def test_the_error_told_is_that_of_the_built_model(
    net: Any, simulator: Simulator, samples: list[dict[str, Any]]
) -> None:
    solved = solve(net, simulator, MIXED, host())
    error = power = 0.0
    for sample, mine in zip(
        samples, run(compact(net, solved, host()), host(), samples), strict=True
    ):
        real = sample["attention_mask"].astype(bool)
        dense = net.reference(sample)[real]
        error += float(np.square(mine[real] - dense).sum())
        power += float(np.square(dense).sum())
    assert solved.output_error == pytest.approx(error / power, rel=1e-3)


def test_the_same_on_a_machine_without_avx512(
    net: Any, simulator: Simulator, samples: list[dict[str, Any]]
) -> None:
    target = KNOWN["x86-64-v3"]
    if target.missing():
        pytest.skip("this machine has no AVX2")
    solved = solve(net, simulator, MIXED, target)
    wanted = simulated(net, simulator, MIXED, target)
    assert_same(run(compact(net, solved, target), target, samples), wanted, quantized=True)


def test_solving_beats_cutting_without_a_solution(net: Any, simulator: Simulator) -> None:
    """Removed neurons are made up for by the ones that stay; zeros alone do worse."""
    candidate = choices(layer0_ffn={"ffn": {"keep": 64}})
    layer = net.sites.layers[0]
    stream = simulator.dense_stream(layer.name)
    solver = LayerSolver(net.model, simulator)
    (block,), change = solve_layer(solver, stream, layer, candidate, host())
    cut = np.zeros_like(net.model.weights[layer.ffn.down.weight])
    cut[:, block.units] = net.model.weights[layer.ffn.down.weight][:, block.units]
    naive = Variant({layer.ffn.down.weight: cut})
    solved = simulator.sensitivity(layer.name, change)
    assert 0 < solved < simulator.sensitivity(layer.name, naive)


def test_later_layers_are_fitted_to_what_earlier_ones_leave(net: Any, simulator: Simulator) -> None:
    """Sequential solving: a block behind a compressed one is solved again although it is dense."""
    solver = LayerSolver(net.model, simulator)
    first, second = net.sites.layers
    stream = simulator.dense_stream(first.name)
    untouched, nothing = solve_layer(solver, stream, second, Candidate(), host())
    assert (untouched, nothing.is_nothing) == ([], True)
    _, change = solve_layer(solver, stream, first, PRUNED, host())
    blocks, _ = solve_layer(solver, simulator.advance(stream, change), second, Candidate(), host())
    assert [b.block.name for b in blocks] == ["layer1.attention", "layer1.ffn"]
    dense = net.model.weights[second.ffn.down.weight]
    assert not np.array_equal(blocks[1].second.weight, dense)


def test_solving_twice_gives_the_same_weights(net: Any, simulator: Simulator) -> None:
    one, two = (solve(net, simulator, MIXED, host()) for _ in range(2))
    assert one.output_error == two.output_error
    again = compact(net, two, host()).weights
    for name, weight in compact(net, one, host()).weights.items():
        np.testing.assert_array_equal(weight, again[name])


def test_side_by_side_gives_what_one_by_one_gives(net: Any, simulator: Simulator) -> None:
    solver = LayerSolver(net.model, simulator)

    def one(candidate: Candidate, step: Callable[[], None]) -> SolvedCandidate:
        return solve_candidate(net.sites, simulator, solver, candidate, host(), step)

    both = solve_side_by_side([MIXED, PRUNED], one, lambda: True)
    assert list(both) == [MIXED.key, PRUNED.key]
    for candidate in (MIXED, PRUNED):
        alone = solve(net, simulator, candidate, host())
        assert both[candidate.key].output_error == pytest.approx(alone.output_error, rel=1e-6)
    assert solve_side_by_side([MIXED], one, lambda: False) == {}


def test_a_failure_stops_what_is_solved_beside_it() -> None:
    begun = Event()
    steps: list[str] = []

    def one(candidate: Candidate, step: Callable[[], None]) -> SolvedCandidate:
        if candidate == MIXED:
            begun.wait(10)
            raise ValueError("broken")
        begun.set()
        for _ in range(1000):
            time.sleep(0.01)
            steps.append(candidate.key)
            step()
        return SolvedCandidate()

    with pytest.raises(ValueError, match="broken"):
        solve_side_by_side([MIXED, PRUNED], one, lambda: True)
    assert 0 < len(steps) < 500
