"""Simulated merging of tokens: the same numbers as a shorter sequence, in outputs and in moments."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from codesign.pipeline import compile_model
from codesign.simulate import Simulator
from passes.combine_qkv import combine_qkv
from passes.errors import PassError
from passes.find_sites import find_sites
from passes.normalize import normalize
from passes.tokens import BIAS, keep_tokens, with_bias
from targets.target import find

SAMPLES = 4


def run(model, sample):
    """The outputs of the compiled model."""
    lowered, executable = compile_model(model, find("host"))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    inputs = [tvm.runtime.tensor(sample[s.name]) for s in model.inputs]
    weights = [tvm.runtime.tensor(np.ascontiguousarray(w)) for w in lowered.weights.values()]
    return [t.numpy() for t in machine["main"](*inputs, *weights)]


@pytest.fixture(scope="module")
def net(encoder):
    return encoder(layers=3, batch=2, seq=13, width=24, heads=3, hidden=20)


@pytest.fixture(scope="module")
def samples(net):
    return [net.sample(seed) for seed in range(SAMPLES)]


@pytest.fixture(scope="module")
def simulator(net, samples):
    return Simulator(net.model, net.sites, find("host", threads=2), samples)


def shortened(simulator, keep, samples=None):
    """The stream at the suffix after merging, ``keep`` tokens by the number of the layer."""
    stream = simulator.dense_stream("layer0", samples)
    for i in range(3):
        stream = simulator.merge(stream, keep[i]) if i in keep else stream
        stream = simulator.advance(stream)
    return stream


@pytest.mark.parametrize("keep", [{0: 5}, {2: 1}, {0: 8, 1: 4, 2: 3}], ids=str)
def test_outputs(net, simulator, samples, keep):
    stream = shortened(simulator, keep)
    error = power = 0.0
    for (got,), sample in zip(simulator.outputs(stream), samples, strict=True):
        wanted, dense = net.reference(sample, keep=keep), net.reference(sample)
        mask = sample["attention_mask"] != 0
        np.testing.assert_allclose(got[mask], wanted[mask], atol=2e-5)
        error += np.square(wanted[mask] - dense[mask]).sum()
        power += np.square(dense[mask]).sum()
    assert simulator.output_error(stream) == pytest.approx(error / power, rel=1e-3)


def test_the_dense_stream_stays(simulator):
    simulator.merge(simulator.dense_stream("layer1"), 4)
    assert simulator.output_error(simulator.dense_stream("layer1")) == 0


def test_moments_are_those_of_the_tokens_left(net, simulator, samples):
    """Where tokens were just merged, the mean of the dense rows of each is its row."""
    stream = simulator.merge(simulator.dense_stream("layer1"), 5)
    gram = simulator.grams(stream, net.sites.layers[1].attention.qkv.name)
    rows = []
    for sample in samples:
        seen = {}
        net.reference(sample, keep={1: 5}, seen=lambda name, x, seen=seen: seen.setdefault(name, x))
        for n, real in enumerate(sample["attention_mask"].sum(axis=1)):
            rows.append(seen["1.qkv"][n, : min(5, real)])  # padding is last
    x = np.concatenate(rows)
    assert gram.count == len(x)
    np.testing.assert_allclose(gram.xx, x.T @ x, atol=1e-3)
    np.testing.assert_allclose(gram.cross, x.T @ x, atol=1e-3)


def test_a_residual_is_fitted_to_the_mean_of_what_it_stands_for(net, simulator):
    """Tokens that are all alike lose nothing, so what the site gave is what it shall give."""
    alike = [{**net.sample(0), "ids": np.full((2, 13), 7)}]
    same = Simulator(net.model, net.sites, find("host"), alike)
    site = net.sites.layers[1].ffn.down.name
    stream = same.merge(same.dense_stream("layer1"), 4)
    gram, dense = same.grams(stream, site), same.grams(same.dense_stream("layer1"), site)
    assert gram.count == 8
    np.testing.assert_allclose(gram.xx / 8, dense.xx / dense.count, atol=1e-4)
    if gram.residual is not None:
        given = gram.xx @ net.model.weights["1.down.w"].T
        np.testing.assert_allclose(gram.residual, given, atol=1e-3)


@pytest.mark.parametrize("name", ["vit", "encoder pre"])
def test_without_a_bias(foreign_example, name):
    model = combine_qkv(normalize(foreign_example(name).model))
    sites = find_sites(model)
    rng = np.random.default_rng(0)
    spec = model.inputs[0]
    sample = {spec.name: rng.standard_normal(spec.shape).astype(np.float32)}
    simulator = Simulator(model, sites, find("host"), [sample])
    stream = simulator.merge(simulator.dense_stream("layer1"), 6)
    ((got,),) = simulator.outputs(stream)
    wanted = run(keep_tokens(model, sites.layers, {"layer1": 6}, find("host"))[0], sample)[0]
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    biased, bias = with_bias(model, sites.layers)
    assert bias == BIAS == biased.inputs[-1].name
    zeros = np.zeros(biased.inputs[-1].shape, np.float32)
    before, after = run(model, sample), run(biased, {**sample, BIAS: zeros})
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)


def test_only_at_layers(simulator):
    with pytest.raises(PassError, match="merged at prefix"):
        simulator.merge(simulator.dense_stream("prefix"), 4)
