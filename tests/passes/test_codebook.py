"""Layers of few values: dense in the graph, small in a bundle, also behind the packing of kernels."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from codesign.coded import VALUES, decode, encode
from passes.codebook import Codebook, CodebookConfig, choices, form
from passes.format_linear import format_linear
from passes.low_rank import conv_on
from passes.lower import lower
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from targets.kernels.window import Window
from targets.target import find

TARGET = find("x86-64-v4")
rng = np.random.default_rng(9)


def site(k, n, window=None):
    return Linear("fc", "fc.w", "fc.b", 6, k, n, window)


def weights_of(n, *inputs):
    return {
        "fc.w": rng.standard_normal((n, *inputs)).astype(np.float32),
        "fc.b": rng.standard_normal(n).astype(np.float32),
    }


def solved_for(w, form):
    weight = w["fc.w"].reshape(len(w["fc.w"]), -1)
    k = weight.shape[1]
    gram = Gram(k).add(rng.standard_normal((200, k)) @ rng.standard_normal((k, k)))
    return solve_linear(Affine(weight, w["fc.b"]), gram, form)


def linear_layer(sketch, w):
    return sketch((2, 3, w["fc.w"].shape[1]), w, lambda s: [s.linear(s.x, "fc")])


@pytest.mark.parametrize(("form", "books"), [(Codebook(16), 1), (Codebook(16, 32), 3)], ids=str)
def test_dense_to_run_and_small_to_store(sketch, execute, form, books):
    w = weights_of(70, 150)
    model = linear_layer(sketch, w)
    solved = solved_for(w, form)
    written, report = format_linear(model, site(150, 70), solved, TARGET)
    assert report.rewrites[0].detail == str(form)
    lowered = lower(written, TARGET)
    x = rng.standard_normal((2, 3, 150))
    wanted = x @ solved.weight.T.astype(np.float64) + solved.bias
    for made in (written, lowered):
        (got,) = execute(made, {"x": x})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())
    packed = lowered.weights["fc.w.packed"]
    arrays, coded = encode(lowered.weights)
    assert arrays["fc.w.packed" + VALUES].shape[0] == books
    stored = sum(a.nbytes for n, a in arrays.items() if n.startswith("fc.w.packed"))
    assert stored < 0.15 * packed.nbytes
    np.testing.assert_array_equal(decode(arrays, "fc.w.packed", coded["fc.w.packed"]), packed)


def test_a_convolution_of_few_values(sketch, execute):
    window = Window(6, 5, 20, (3, 3), (1, 1), (1, 1, 1, 1))
    w = weights_of(40, 20, 3, 3)

    def draw(s):
        y = s.bb.emit(conv_on(s.x, s.params["fc.w"], window))
        return [s.bb.emit(relax.op.add(y, s.params["fc.b"]))]

    model = sketch((1, 6, 5, 20), w, draw)
    solved = solved_for(w, Codebook(32))
    written, _ = format_linear(model, site(180, 40, window), solved, TARGET)
    assert len(np.unique(written.weights["fc.w"])) <= 32
    x = rng.standard_normal((1, 6, 5, 20))
    lowered = lower(written, TARGET)
    (wanted,), (got,) = execute(written, {"x": x}), execute(lowered, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    arrays, _ = encode(lowered.weights)
    assert sum(a.nbytes for a in arrays.values()) < 0.2 * lowered.size_bytes


def test_fewer_values_take_fewer_bytes_and_lose_more(sketch):
    w = weights_of(64, 160)
    model = linear_layer(sketch, w)
    sizes, errors = [], []
    for count in (256, 64, 16):
        solved = solved_for(w, Codebook(count))
        written, _ = format_linear(model, site(160, 64), solved, TARGET)
        arrays, _ = encode(written.weights)
        sizes.append(sum(a.nbytes for a in arrays.values()))
        errors.append(np.square(solved.weight - w["fc.w"]).sum())
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert sizes[2] < 64 * 160 / 2 + 64 * 4 + 64


def test_offers_and_refusals():
    offers, refusals = choices(site(64, 128), TARGET)
    assert [o.values for o in offers] == [64, 32, 16]
    assert [(r.op, r.reason) for r in refusals] == [
        ("codebook 256", "8192 weights are too few for 256 values")
    ]
    by_block, _ = choices(site(64, 128), TARGET, CodebookConfig(by_block=True))
    assert by_block == [Codebook(32, TARGET.block), Codebook(16, TARGET.block)]
    assert [form(o.setting, TARGET) for o in (*offers, *by_block)] == [*offers, *by_block]
