"""Fewer tokens in whole graphs: against float64, in what people read from a sequence, and refused."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from codesign.pipeline import compile_model
from passes.combine_qkv import combine_qkv
from passes.errors import PassError
from passes.ffn import prune_ffn
from passes.find_sites import find_sites
from passes.heads import prune_heads
from passes.int8_attention import quantize_attention
from passes.layers import drop_layers
from passes.normalize import normalize
from passes.tokens import TokensConfig, choices, keep_tokens
from targets.kernels.merge_tokens import merge_reference
from targets.target import find

ODD = {"batch": 2, "seq": 19, "width": 24, "heads": 3, "hidden": 21, "layers": 4}
HOST = find("host")


def keep(net, **lengths):
    return keep_tokens(net.model, net.sites.layers, lengths, HOST)[0]


def error(got, wanted, mask):
    return np.abs(got - wanted)[mask].max() / np.abs(wanted).max()


@pytest.mark.parametrize(
    "lengths", [{0: 7}, {1: 12}, {3: 1}, {0: 12, 2: 5}, {0: 18, 1: 11, 2: 10, 3: 2}], ids=str
)
def test_against_float64(encoder, execute, lengths):
    net = encoder(**ODD)
    model, report = keep_tokens(
        net.model, net.sites.layers, {f"layer{i}": n for i, n in lengths.items()}, HOST
    )
    assert [c.site for c in report.rewrites] == [f"layer{i}" for i in lengths]
    for seed in range(3):
        sample = net.sample(seed)
        (got,) = execute(model, sample)
        mask = sample["attention_mask"] != 0
        assert error(got, net.reference(sample, keep=lengths), mask) < 1e-5
        assert error(got, net.reference(sample), mask) > 1e-3


def test_lowered(encoder):
    net = encoder(**ODD)
    lowered, executable = compile_model(keep(net, layer1=9), HOST)
    sample = net.sample(1)
    values = [sample[s.name] for s in net.model.inputs] + list(lowered.weights.values())
    machine = relax.VirtualMachine(executable, tvm.cpu())
    (got,) = machine["main"](*(tvm.runtime.tensor(v) for v in values))
    mask = sample["attention_mask"] != 0
    assert error(got.numpy(), net.reference(sample, keep={1: 9}), mask) < 1e-5


def test_padding_goes_first(encoder, execute):
    """A text of no more tokens than are kept loses nothing."""
    net = encoder(**ODD)
    sample = net.sample(8)
    mask = sample["attention_mask"] != 0
    longest = int(mask.sum(axis=1).max())
    (got,) = execute(keep(net, layer0=longest), sample)
    assert longest < 19
    assert error(got, net.reference(sample), mask) < 1e-5


def test_sites_stay(encoder, execute):
    """The passes that follow work on the shorter sequence, and a layer may still be dropped."""
    net = encoder(**ODD)
    model = keep(net, layer1=8)
    sites = find_sites(model)
    assert [x.name for x in sites.layers] == [x.name for x in net.sites.layers]
    assert [x.ffn.up.rows for x in sites.layers] == [38, 16, 16, 16]
    assert [x.output for x in sites.layers] == [x.output for x in net.sites.layers]
    first, second = net.sites.attentions[1:3]
    model = prune_heads(model, first, [0, 2])[0]
    model = quantize_attention(model, second)[0]
    model = prune_ffn(model, net.sites.ffns[2], range(10))[0]
    model = drop_layers(model, net.sites.layers[3:])[0]
    out = {"1.out.w": np.array(net.model.weights["1.out.w"])}
    out["1.out.w"][:, 8:16] = 0
    out["2.down.w"] = np.array(net.model.weights["2.down.w"])
    out["2.down.w"][:, 10:] = 0
    sample = net.sample(3)
    wanted = net.reference(sample, out, dropped=frozenset([3]), keep={1: 8})
    lowered, executable = compile_model(model, HOST)
    values = [sample[s.name] for s in model.inputs] + list(lowered.weights.values())
    machine = relax.VirtualMachine(executable, tvm.cpu())
    (got,) = machine["main"](*(tvm.runtime.tensor(np.ascontiguousarray(v)) for v in values))
    mask = sample["attention_mask"] != 0
    assert error(got.numpy(), wanted, mask) < 0.05  # one attention has int8 products


@pytest.mark.parametrize("name", ["vit", "encoder pre", "distilbert (onnx)"])
def test_imported_models(foreign_example, execute, name):
    """Pre- and post-norm, with and without a bias: all tokens but one are kept, then no more than two."""
    model = combine_qkv(normalize(foreign_example(name).model))
    layers = find_sites(model).layers
    rng = np.random.default_rng(0)
    inputs = {
        s.name: rng.standard_normal(s.shape).astype(np.float32)
        if s.dtype == "float32"
        else rng.integers(1, 60, s.shape)
        for s in model.inputs
    }
    (dense,) = execute(model, inputs)
    seq = dense.shape[1]
    offered, _ = choices(model, layers, TokensConfig(shares=(0.5,), multiple=1))
    assert offered == [{"keep": round(seq / 2)}]
    got = execute(keep_tokens(model, layers, {layers[1].name: seq - 1}, HOST)[0], inputs)[0]
    assert got.shape == dense.shape
    moved = np.square(got - dense).sum() / np.square(dense).sum()
    assert 1e-9 < moved < 0.2
    two = execute(keep_tokens(model, layers, {layers[0].name: 2}, HOST)[0], inputs)[0]
    assert [len(np.unique(t.round(4), axis=0)) for t in two] == [2] * len(two)


def draw_reader(sketch, read):
    """A model of one layer in canonical form, and what ``read`` makes of its variables."""
    rng = np.random.default_rng(0)

    def weight(*shape):
        return rng.standard_normal(shape).astype(np.float32) * shape[-1] ** -0.5

    weights = {"qkv.w": weight(36, 12), "out.w": weight(12, 12), "up.w": weight(9, 12)}
    weights |= {"down.w": weight(12, 9), "bias": weight(2, 1, 7, 7), "head.w": weight(5, 12)}
    weights |= {"at": weight(7, 12), **{f"{n}{i}": 1 + weight(12) for n in "gb" for i in "12"}}

    def draw(s):
        return read(s, lambda bias=None, between=None: layer(s, bias, between))

    def layer(s, bias, between):
        op, emit = relax.op, s.bb.emit
        parts = emit(op.split(s.linear(s.x, "qkv"), 3, axis=-1))
        q, k, v = (emit(op.reshape(emit(parts[i]), (2, 7, 3, 4))) for i in range(3))
        mixed = emit(op.reshape(emit(op.nn.attention(q, k, v, bias, scale=0.5)), (2, 7, 12)))
        h = emit(op.add(s.linear(mixed, "out"), s.x))
        h = emit(op.nn.layer_norm(h, s.params["g1"], s.params["b1"], axes=[-1]))
        h = h if between is None else emit(between(h))
        down = s.linear(emit(op.nn.relu(s.linear(h, "up"))), "down")
        y = emit(op.add(down, h))
        return emit(op.nn.layer_norm(y, s.params["g2"], s.params["b2"], axes=[-1]))

    return sketch((2, 7, 12), weights, draw)


def test_what_follows_reads_all_tokens(sketch, execute):
    """A mean over tokens weighs each row by those that it stands for; the first token is itself."""
    op = relax.op

    def read(s, layer):
        y = layer()
        mean = s.bb.emit(op.mean(y, axis=[1]))
        first = s.bb.emit(op.strided_slice(y, axes=[1], begin=[0], end=[1]))
        return [mean, s.linear(first, "head"), y]

    model = draw_reader(sketch, read)
    x = np.random.default_rng(1).standard_normal((2, 7, 12)).astype(np.float32)
    layers = find_sites(model).layers
    mean, first, rows = execute(keep_tokens(model, layers, {"layer0": 3}, HOST)[0], {"x": x})
    sizes = [merge_reference(one, np.zeros(7), np.ones(7), 3) for one in x]
    for n, merged in enumerate(sizes):
        np.testing.assert_array_equal(rows[n], rows[n][merged.kept][merged.place])
        weighed = (rows[n][merged.kept] * merged.size[:, None]).sum(0) / 7
        np.testing.assert_allclose(mean[n], weighed, atol=1e-5)
        assert merged.kept[0] == 0
    np.testing.assert_allclose(first[:, 0], rows[:, 0] @ model.weights["head.w"].T, atol=1e-5)


REFUSED = {
    "a bias for each query": (
        lambda s, layer: [layer(bias=s.params["bias"])],
        "bias of shape [2, 1, 7, 7]",
    ),
    "positions added within the layer": (
        lambda s, layer: [layer(between=lambda h: relax.op.add(h, s.params["at"]))],
        "add at",
    ),
    "a sum over tokens": (
        lambda s, layer: [
            layer(between=lambda h: relax.op.add(h, relax.op.mean(h, axis=[1], keepdims=True)))
        ],
        "mean at",
    ),
    "the input read elsewhere": (
        lambda s, layer: [layer(), s.bb.emit(relax.op.nn.relu(s.x))],
        "x is read outside the layers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(sketch, case):
    read, reason = REFUSED[case]
    model = draw_reader(sketch, read)
    sites = find_sites(draw_reader(sketch, lambda s, layer: [layer()]))
    (layer,) = sites.layers
    if not find_sites(model).layers:
        variables = [b.var.name for blk in model.main.body.blocks for b in blk.bindings]
        layer = type(layer)(layer.name, layer.attention, layer.ffn, "x", variables[-2])
    else:
        (layer,) = find_sites(model).layers
    with pytest.raises(PassError, match="no tokens can be merged") as caught:
        keep_tokens(model, [layer], {"layer0": 3}, HOST)
    assert reason in caught.value.got
    offers, (refusal,) = choices(model, [layer])
    assert not offers
    assert reason in refusal.reason


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        ({"layer0": 19}, "must fall"),
        ({"layer0": 0}, "must fall"),
        ({"layer0": 8, "layer2": 8}, "must fall"),
        ({"layer9": 8}, "cannot be merged there"),
        ({}, "cannot be merged there"),
    ],
)
def test_impossible_schedules(encoder, lengths, reason):
    net = encoder(**ODD)
    with pytest.raises(PassError, match=reason):
        keep_tokens(net.model, net.sites.layers, lengths, HOST)


def test_sites_of_another_graph(encoder):
    net = encoder(**ODD)
    other = type(net.sites.layers[0])(
        "layer0", net.sites.attentions[0], net.sites.ffns[0], "nowhere", net.sites.layers[0].output
    )
    with pytest.raises(PassError, match="not where it was"):
        keep_tokens(net.model, [other], {"layer0": 3}, HOST)


def test_choices(encoder):
    net = encoder(layers=1, seq=128, width=16, heads=2, hidden=16)
    assert choices(net.model, net.sites.layers) == ([{"keep": 96}, {"keep": 64}, {"keep": 32}], [])
    net = encoder(layers=1, seq=20, width=16, heads=2, hidden=16)
    offers, refusals = choices(net.model, net.sites.layers)
    assert offers == [{"keep": 16}]
    assert not refusals
    net = encoder(layers=1, seq=16, width=16, heads=2, hidden=16)
    offers, refusals = choices(net.model, net.sites.layers)
    assert not offers
    assert len(refusals) == 3
    assert choices(net.model, []) == ([], [])
