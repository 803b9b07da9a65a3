"""Sparse and int8 kernels in the graph compute what the effective dense weights compute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tvm import relax

from passes.bf16 import Bf16
from passes.codebook import Codebook
from passes.errors import PassError
from passes.ffn import prune_ffn, solved_weights
from passes.format_linear import format_linear, format_linears
from passes.formats import BFLOAT16, DENSE, FLOAT16, ROWS, Solved
from passes.fp16 import Fp16
from passes.heads import prune_heads
from passes.int8 import Int8
from passes.int8_static import Int8Static
from passes.low_rank import LowRank
from passes.rewrite import bindings_of
from passes.seen import QUANTIZE
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.ranges import Codes
from passes.solve.site import Affine, solve_ffn, solve_formats, solve_linear
from passes.sparse import Sparse
from passes.weight_only import WeightOnly
from targets.kernels.linear_bf16 import bf16_bits, bf16_values
from targets.kernels.linear_fp16 import fp16_values
from targets.kernels.quantize import quantize_reference
from targets.target import find

TARGET = find("x86-64-v4")
ODD = {"batch": 2, "seq": 7, "width": 36, "heads": 3, "hidden": 50, "layers": 2}
FORMATS = [
    DENSE,
    Sparse(0.5, TARGET.block),
    Int8(1.0, TARGET.block),
    Int8(0.4, TARGET.block),
    Int8Static(1.0, TARGET.block),
    Int8Static(0.4, TARGET.block, "percentile 99.9"),
    Bf16(),
    Fp16(),
    LowRank(5),
    WeightOnly(4, 8, symmetric=False),
    Codebook(16),
]
rng = np.random.default_rng(5)


def error(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def on_the_grid(shape):
    """Rows that span exactly 255 steps of 1/32, so that no code lies between two values."""
    codes = rng.integers(0, 256, shape)
    codes[..., 0], codes[..., 1] = 0, 255
    zero = rng.integers(0, 256, (*shape[:-1], 1))
    return ((codes - zero) / 32).astype(np.float32)


def seen_by(x, solved):
    """The rows as the kernel of a solved layer sees them."""
    seen = solved.seen
    if seen == BFLOAT16:
        return bf16_values(bf16_bits(x.astype(np.float32)))
    if seen == FLOAT16:
        return fp16_values(x)
    if seen == ROWS:
        return quantize_reference(x.astype(np.float32)).dequantized()
    if not seen.static:
        return x
    codes = Codes(np.array(seen.scale, np.float32), np.array(seen.zero, np.int32))
    return codes.of(x.astype(np.float32))


def weights_of(k, n, names=("fc",), bias=True):
    w = {}
    for name in names:
        w[f"{name}.w"] = rng.standard_normal((n, k)).astype(np.float32)
        if bias:
            w[f"{name}.b"] = rng.standard_normal(n).astype(np.float32)
    return w


def linear(model, name):
    n, k = model.weights[f"{name}.w"].shape
    bias = f"{name}.b" if f"{name}.b" in model.weights else None
    return Linear(name, f"{name}.w", bias, 1, k, n)


def solve(model, site, form, rows):
    layer = Affine(model.weights[site.weight], model.weights.get(site.bias))
    return solve_linear(layer, Gram(site.in_features).add(rows), form)


def calls(model, kernel):
    """Names of the variables that are calls of a kernel."""
    tir = [b for b in bindings_of(model) if isinstance(b.value, relax.Call)]
    tir = [b for b in tir if b.value.op.name == "relax.call_tir"]
    return [b.var.name for b in tir if b.value.args[0].name_hint.startswith(kernel)]


@pytest.mark.parametrize("shape", [(1, 1, 70, 33), (2, 5, 37, 70), (3, 4, 8, 64)], ids=str)
def test_every_format_on_odd_sizes(sketch, execute, shape):
    *lead, k, n = shape
    names = tuple("abcdefghijk")
    model = sketch(
        (*lead, k), weights_of(k, n, names), lambda s: [s.linear(s.x, name) for name in names]
    )
    x, rows, wanted = on_the_grid((*lead, k)), rng.standard_normal((200, k)), {}
    for name, form in zip(names, FORMATS, strict=True):
        site = linear(model, name)
        solved = solve(model, site, form, rows)
        model, report = format_linear(model, site, solved, TARGET)
        assert [c.detail for c in report.rewrites] == [str(form)]
        assert (f"{name}.w" in model.weights) == form.in_place
        wanted[name] = seen_by(x, solved).astype(np.float64) @ solved.weight.T + solved.bias
    for name, got in zip(names, execute(model, {"x": x}), strict=True):
        most = 2e-3 if isinstance(FORMATS[names.index(name)], Fp16) else 1e-5
        assert error(got, wanted[name]) < most, name


def test_weights_shrink_with_the_format(sketch):
    model = sketch((2, 3, 64), weights_of(64, 64, bias=False), lambda s: [s.linear(s.x, "fc")])
    site = linear(model, "fc")
    rows = rng.standard_normal((100, 64))
    sizes = [
        format_linear(model, site, solve(model, site, f, rows), TARGET)[0].size_bytes
        for f in FORMATS
    ]
    assert sizes[0] == 64 * 64 * 4
    assert sizes[1] == 64 * 32 * 4 + 2 * 32 * 4
    assert sizes[2] == 64 * 64 + 2 * 64 * 4
    assert sizes[3] == 64 * 6 * 4 + 2 * 6 * 4 + 2 * 64 * 4
    assert model.size_bytes == 64 * 64 * 4


def test_rows_are_quantised_once_for_all_that_read_them(sketch, execute):
    k, n, names = 21, 40, ("a", "b", "c")
    model = sketch(
        (2, 3, k), weights_of(k, n, names), lambda s: [s.linear(s.x, name) for name in names]
    )
    x = on_the_grid((2, 3, k))
    rows = rng.standard_normal((99, k))
    sites = [linear(model, name) for name in names]
    solved = [solve(model, s, f, rows) for s, f in zip(sites, FORMATS[2:4] * 2, strict=False)]
    at_once, _ = format_linears(model, list(zip(sites, solved, strict=True)), TARGET)
    one_by_one = model
    for i in (2, 0, 1):
        one_by_one, _ = format_linear(one_by_one, sites[i], solved[i], TARGET)
    seen = seen_by(x, solved[0]).astype(np.float64)
    for written in (at_once, one_by_one):
        assert len(calls(written, QUANTIZE)) == 1
        for got, s in zip(execute(written, {"x": x}), solved, strict=True):
            assert error(got, seen @ s.weight.T + s.bias) < 1e-5


def test_an_encoder_of_all_formats_with_pruned_heads_and_neurons(encoder, execute):
    """int8 on pruned, int8 on sparse, sparse on pruned, and int8 behind heads that are gone."""
    net = encoder(**ODD)
    grams = {s.name: Gram(s.in_features) for s in net.sites.linears}
    for seed in range(30):
        net.reference(net.sample(seed), seen=lambda name, x: (grams[name].add(x), x)[1])
    weights = dict(net.model.weights)
    model, _ = prune_heads(net.model, net.sites.attentions[0], [0, 2])
    ffn = net.sites.ffns[0]
    up, down = (Affine(weights[s.weight], weights[s.bias]) for s in (ffn.up, ffn.down))
    narrow = solve_ffn(up, down, grams["0.down"], 32)
    model, _ = prune_ffn(model, ffn, narrow.keep, solved_weights(ffn, narrow))
    lost = np.zeros((36, 3, 12), np.float32)
    lost[:, [0, 2]] = weights["0.out.w"].reshape(36, 3, 12)[:, [0, 2]]
    effective = {"0.out.w": lost.reshape(36, 36), **solved_weights(ffn, narrow)}
    kept = {"0.out": np.r_[0:12, 24:36], "0.down": narrow.keep}
    outputs = {"0.up": narrow.keep, "0.qkv": np.r_[0:12, 24:48, 60:84, 96:108]}
    layers, forms = [], {}
    for i, site in enumerate(net.sites.linears):
        form = FORMATS[i % len(FORMATS)]
        inputs = kept.get(site.name, np.arange(site.in_features))
        rows = outputs.get(site.name, np.arange(site.out_features))
        layer = Affine(model.weights[site.weight], model.weights[site.bias])
        solved = solve_linear(layer, grams[site.name].rows(inputs), form)
        layers.append((site, solved))
        forms[site.name] = (solved, inputs)
        full = np.zeros((site.out_features, site.in_features), np.float32)
        full[np.ix_(rows, inputs)] = solved.weight
        bias = np.zeros(site.out_features, np.float32)
        bias[rows] = solved.bias
        effective |= {site.weight: full, site.bias: bias}
    written, _ = format_linears(model, layers, TARGET)

    def seen(name, x):
        solved, inputs = forms[name]
        x = x.copy()
        x[..., inputs] = seen_by(x[..., inputs], solved)
        return x

    sample = net.sample(77)
    (got,) = execute(written, sample)
    # values between two codes may fall either way, and later layers see it
    assert error(got, net.reference(sample, effective, seen)) < 2e-3
    assert error(got, net.reference(sample)) > 1e-2
    assert written.size_bytes < 0.65 * net.model.size_bytes


def test_formats_of_fp32_in_an_encoder_are_exact(encoder, execute):
    net = encoder(**ODD)
    rows = {s.name: rng.standard_normal((150, s.in_features)) for s in net.sites.linears}
    layers = [
        (s, solve(net.model, s, FORMATS[i % 2], rows[s.name]))
        for i, s in enumerate(net.sites.linears)
    ]
    effective = {s.weight: x.weight for s, x in layers} | {s.bias: x.bias for s, x in layers}
    written, _ = format_linears(net.model, layers, TARGET)
    sample = net.sample(3)
    (got,) = execute(written, sample)
    assert error(got, net.reference(sample, effective)) < 1e-5


def test_errors_say_what_does_not_fit(sketch):
    weights = weights_of(16, 32, ("a", "b"))
    model = sketch((1, 3, 16), weights, lambda s: [s.linear(s.x, "a"), s.linear(s.x, "b")])
    site = linear(model, "a")
    layer = Affine(weights["a.w"], weights["a.b"])
    gram = Gram(16).add(rng.standard_normal((50, 16)))
    dense, sparse, int8 = solve_formats(layer, gram, FORMATS[:3])
    other = find("x86-64-v3")
    with pytest.raises(PassError, match="another block of outputs"):
        format_linear(model, site, sparse, other)
    with pytest.raises(PassError, match="another shape"):
        format_linear(model, site, replace(dense, weight=dense.weight[:, :8]), TARGET)
    with pytest.raises(PassError, match="not on its int8 grid"):
        format_linear(model, site, replace(int8, weight=int8.weight * 1.001), TARGET)
    with pytest.raises(PassError, match="has no scale"):
        format_linear(model, site, Solved(FORMATS[2], int8.weight), TARGET)
    done, _ = format_linear(model, site, int8, TARGET)
    with pytest.raises(PassError, match="no weight in the model"):
        format_linear(done, site, int8, TARGET)


def test_a_shared_weight_cannot_change_alone(sketch):
    model = sketch(
        (1, 3, 16),
        weights_of(16, 16, bias=False),
        lambda s: [s.linear(s.linear(s.x, "fc"), "fc")],
    )
    site = linear(model, "fc")
    solved = solve(model, site, FORMATS[1], rng.standard_normal((50, 16)))
    with pytest.raises(PassError, match="shares a weight"):
        format_linear(model, site, solved, TARGET)


def test_another_form_of_product_is_refused(sketch):
    w = {"fc.w": rng.standard_normal((16, 16)).astype(np.float32)}
    model = sketch((1, 3, 16), w, lambda s: [s.bb.emit(relax.op.matmul(s.x, s.params["fc.w"]))])
    site = Linear("fc", "fc.w", None, 3, 16, 16)
    solved = solve(model, site, FORMATS[1], rng.standard_normal((50, 16)))
    with pytest.raises(PassError, match="canonical form"):
        format_linear(model, site, solved, TARGET)
