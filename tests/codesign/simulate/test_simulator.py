"""The simulator against the compiled model and against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from codesign.pipeline import compile_model
from codesign.simulate import Simulator, Variant
from passes.errors import PassError
from passes.find_sites import find_sites
from passes.formats import ROWS
from passes.norm import fitted
from passes.sites import Sites
from passes.solve.gram import corrected_bias
from targets.kernels.quantize import quantize_reference
from targets.target import find

SAMPLES = 5


def fake_quantised(x):
    return quantize_reference(x.astype(np.float32)).dequantized().astype(np.float64)


def squared_error(net, samples, wanted, dense):
    """Relative squared error over the rows that are no padding."""
    error = power = 0.0
    for sample, got, reference in zip(samples, wanted, dense, strict=True):
        keep = sample["attention_mask"] != 0
        error += np.square(got[keep] - reference[keep]).sum()
        power += np.square(reference[keep]).sum()
    return error / power


@pytest.fixture(scope="module")
def net(encoder):
    return encoder(layers=3, batch=2, seq=9, width=48, heads=3, hidden=60)


@pytest.fixture(scope="module")
def samples(net):
    return [net.sample(seed) for seed in range(SAMPLES)]


@pytest.fixture(scope="module")
def dense(net, samples):
    return [net.reference(s) for s in samples]


@pytest.fixture(scope="module")
def simulator(net, samples):
    return Simulator(net.model, net.sites, find("host", threads=2), samples)


def test_segments_are_prefix_layers_suffix(simulator):
    assert [s.name for s in simulator.segments] == [
        "prefix", "layer0", "layer1", "layer2", "suffix",
    ]  # fmt: skip
    assert [len(s.linears) for s in simulator.segments] == [0, 4, 4, 4, 0]
    assert len({s.part.context for s in simulator.segments[1:4]}) == 1


def test_output_is_that_of_the_compiled_model(net, simulator, samples):
    lowered, executable = compile_model(net.model, find("host"))
    vm = relax.VirtualMachine(executable, tvm.cpu())
    weights = [tvm.runtime.tensor(w) for w in lowered.weights.values()]
    got = simulator.outputs(simulator.dense_stream("layer1"))
    for sample, (hidden,) in zip(samples, got, strict=True):
        inputs = [tvm.runtime.tensor(sample[s.name]) for s in net.model.inputs]
        np.testing.assert_allclose(hidden, vm["main"](*inputs, *weights)[0].numpy(), atol=1e-5)


def test_dense_model_has_no_error(simulator):
    assert simulator.output_error(simulator.dense_stream("prefix")) == 0
    assert simulator.sensitivity("layer1", Variant(), samples=2) == 0


def test_changed_weights(net, simulator, samples, dense):
    rng = np.random.default_rng(0)
    changed = {
        "1.up.w": net.model.weights["1.up.w"] * (rng.random((60, 48)) < 0.5),
        "1.out.b": net.model.weights["1.out.b"] + np.float32(0.3),
    }
    expected = [net.reference(s, changed) for s in samples]
    stream = simulator.advance(simulator.dense_stream("layer1"), Variant(weights=changed))
    for (got,), wanted in zip(simulator.outputs(stream), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)
    error = squared_error(net, samples, expected, dense)
    assert error > 1e-3
    assert simulator.output_error(stream) == pytest.approx(error, rel=1e-3)
    some = squared_error(net, samples[:2], expected[:2], dense[:2])
    assert simulator.sensitivity("layer1", Variant(changed), samples=2) == pytest.approx(some, 1e-3)


def test_dropped_layers(net, simulator, samples, dense):
    expected = [net.reference(s, dropped=frozenset({0, 2})) for s in samples]
    gone = Variant(dropped=True)
    stream = simulator.finish(simulator.dense_stream("prefix"), {"layer0": gone, "layer2": gone})
    for (got,), wanted in zip(simulator.outputs(stream), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)
    error = squared_error(net, samples, expected, dense)
    assert simulator.output_error(stream) == pytest.approx(error, rel=1e-3)


def test_quantised_inputs(net, simulator, samples, dense):
    names = frozenset({"1.qkv", "1.down"})

    def seen(name, x):
        return fake_quantised(x) if name in names else x

    expected = [net.reference(s, seen=seen) for s in samples]
    error = squared_error(net, samples, expected, dense)
    # codes that fall on the edge between two values may differ by one: the error is a statistic
    got = simulator.sensitivity("layer1", Variant(seen=dict.fromkeys(names, ROWS)), samples=None)
    assert 1e-7 < error < 1e-3
    assert got == pytest.approx(error, rel=0.05)


def test_frozen_norms(encoder):
    """The affine map is fitted to the rows that count, and its error is that of the model with it."""
    net = encoder(layers=2, batch=2, seq=9, width=48, heads=3, hidden=60)
    samples = [net.sample(seed) for seed in range(SAMPLES)]
    sites = find_sites(net.model)
    simulator = Simulator(net.model, sites, find("host", threads=2), samples)
    attention = sites.layers[1].attention
    norm = attention.norm
    frozen = simulator.frozen(attention.out.name, norm)
    assert 0 < frozen.error < 0.5

    # what the norm reads, by a model whose norm is the identity of it
    rows, dense, wanted = [], [], []
    for sample in samples:
        seen = {}
        dense.append(net.reference(sample, seen=lambda n, x, seen=seen: seen.setdefault(n, x)))
        weights = net.model.weights
        total = seen["1.out"] @ weights["1.out.w"].T.astype(np.float64) + weights["1.out.b"]
        total = total + seen["1.qkv"]
        rows.append(total[sample["attention_mask"] != 0])

        def put(name, x, total=total):
            return total * frozen.scale + frozen.shift if name == "1.up" else x

        wanted.append((put, seen["1.up"]))
    again = fitted(rows, net.model.weights[norm.weight], net.model.weights[norm.bias], norm.epsilon)
    np.testing.assert_allclose(frozen.scale, again.scale, rtol=1e-3)
    np.testing.assert_allclose(frozen.shift, again.shift, rtol=1e-3, atol=1e-4)
    stream = simulator.dense_stream("layer1")
    walked = simulator._walk(stream).after(2, Variant(seen={norm.name: frozen}))
    for sample, (put, exact) in zip(walked, wanted, strict=True):
        got = sample[simulator._programs.staged[2].inputs["layer1.ffn.up"]].numpy()
        np.testing.assert_allclose(got, put("1.up", exact), atol=2e-5)
        assert np.abs(got - exact).max() > 1e-3
    error = simulator.sensitivity("layer1", Variant(seen={norm.name: frozen}), samples=None)
    assert 1e-5 < error < 1


@pytest.mark.parametrize("site", ["qkv", "out", "up", "down"])
def test_a_walk_runs_again_only_what_a_change_touches(net, simulator, monkeypatch, site):
    stream = simulator.advance(
        simulator.dense_stream("layer0"), Variant({"0.up.w": 0.7 * net.model.weights["0.up.w"]})
    )
    whole = simulator.advance(stream)
    ran = []
    step = simulator._programs.step

    def noted(index, number, variant):
        ran.append(number)
        return step(index, number, variant)

    monkeypatch.setattr(simulator._programs, "step", noted)
    order = ["qkv", "out", "up", "down"]
    changed = Variant({f"1.{site}.w": 1.1 * net.model.weights[f"1.{site}.w"]})
    once = simulator.advance(stream, changed)
    assert ran == list(range(order.index(site), 4))  # a stage begins where its layer reads
    again = simulator.advance(stream)
    assert ran == 2 * list(range(order.index(site), 4))
    name = net.sites.layers[1].output
    for a, b, c in zip(whole.samples, again.samples, once.samples, strict=True):
        np.testing.assert_array_equal(a[name].numpy(), b[name].numpy())
        assert np.abs(a[name].numpy() - c[name].numpy()).max() > 1e-3


@pytest.mark.parametrize("site", ["qkv", "out", "up", "down"])
def test_grams_are_products_of_what_the_layers_see(net, simulator, samples, site):
    changed = {"0.up.w": net.model.weights["0.up.w"] * np.float32(0.7)}
    within = {"1.qkv.w": net.model.weights["1.qkv.w"] * np.float32(0.9)}
    name = f"1.{site}"

    def rows(weights, name=name):
        found = []
        for sample in samples:

            def seen(layer, x, keep=sample["attention_mask"] != 0):
                if layer == name:
                    found.append(x[keep])
                return x

            net.reference(sample, weights, seen)
        return np.concatenate(found)

    stream = simulator.advance(simulator.dense_stream("layer0"), Variant(changed))
    gram = simulator.grams(stream, name, Variant(within))
    compressed, original = rows(changed | within), rows({})
    scale = np.abs(compressed.T @ compressed).max()
    assert gram.count == len(compressed)
    np.testing.assert_allclose(gram.xx, compressed.T @ compressed, atol=1e-5 * scale)
    np.testing.assert_allclose(gram.mean_c, compressed.mean(0), atol=1e-5)
    weight = net.model.weights[f"{name}.w"].astype(np.float64)
    outputs = original @ weight.T
    if site in ("out", "down"):  # it also makes up for what the stream lacks that it is added to
        before = "1.qkv" if site == "out" else "1.up"
        outputs += rows({}, before) - rows(changed | within, before)
    else:
        np.testing.assert_allclose(gram.cross, compressed.T @ original, atol=1e-5 * scale)
        np.testing.assert_allclose(gram.mean_d, original.mean(0), atol=1e-5)
    wanted = compressed.T @ outputs
    np.testing.assert_allclose(gram.wanted(weight), wanted, atol=1e-5 * np.abs(wanted).max())
    bias = corrected_bias(np.zeros(len(weight)), weight, 0.5 * weight, gram)
    centre = outputs.mean(0) - 0.5 * weight @ compressed.mean(0)
    np.testing.assert_allclose(bias, centre, atol=1e-5)

    dense = simulator.grams(simulator.dense_stream("layer1"), name)
    assert not dense.drifted
    np.testing.assert_allclose(dense.xx, original.T @ original, atol=1e-5 * scale)


def test_a_layers_own_quantiser_does_not_count_in_its_gram(simulator):
    stream = simulator.dense_stream("layer0")
    gram = simulator.grams(stream, "0.qkv", Variant(seen={"0.qkv": ROWS}))
    np.testing.assert_array_equal(gram.xx, simulator.grams(stream, "0.qkv").xx)


def test_model_without_layers_is_one_segment(net, samples):
    flat = Sites(net.sites.linears, (), (), (), ())
    whole = Simulator(net.model, flat, find("host"), samples[:2])
    assert [s.name for s in whole.segments] == ["suffix"]
    changed = {"2.down.w": net.model.weights["2.down.w"] * np.float32(0.5)}
    stream = whole.advance(whole.dense_stream("suffix"), Variant(changed))
    for (got,), sample in zip(whole.outputs(stream), samples, strict=False):
        np.testing.assert_allclose(got, net.reference(sample, changed), atol=2e-5)


def test_unknown_names_are_told(simulator):
    stream = simulator.dense_stream("layer1")
    with pytest.raises(PassError, match="no such weight") as caught:
        simulator.advance(stream, Variant({"0.up.w": np.zeros((60, 48), np.float32)}))
    assert caught.value.got == "0.up.w"
    with pytest.raises(PassError, match="no such site"):
        simulator.advance(stream, Variant(seen={"0.up": ROWS}))
    with pytest.raises(PassError, match="no such site"):
        simulator.grams(stream, "0.up")
