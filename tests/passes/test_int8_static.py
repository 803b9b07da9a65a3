"""Static int8: scales from calibration, codes made where the numbers are, once for all that read them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tvm import relax

from codesign.kernels import kernels
from passes.errors import PassError
from passes.format_linear import format_linear, format_linears
from passes.formats import Solved
from passes.int8_static import BEST, RANGES, Int8Static, Int8StaticConfig, choices, form
from passes.lower import lower
from passes.rewrite import bindings_of
from passes.seen import PAD, QUANTIZE_STATIC
from passes.sites import Linear
from passes.solve.gptq import quantize_rows
from passes.solve.gram import Gram
from passes.solve.ranges import WORTH, Codes
from passes.solve.site import Affine, solve_linear
from targets.target import find

TARGET, PLAIN = find("x86-64-v4"), find("x86-64-v3")
VNNI = find("icelake-server")
rng = np.random.default_rng(8)


def calls(model, kernel):
    tir = [b.value for b in bindings_of(model) if isinstance(b.value, relax.Call)]
    tir = [v for v in tir if v.op.name == "relax.call_tir"]
    return [v for v in tir if v.args[0].name_hint.startswith(kernel)]


def weights_of(k, n, *names):
    w = {}
    for name in names:
        w[f"{name}.w"] = rng.standard_normal((n, k)).astype(np.float32)
        w[f"{name}.b"] = rng.standard_normal(n).astype(np.float32)
    return w


def site_of(model, name):
    n, k = model.weights[f"{name}.w"].shape
    return Linear(name, f"{name}.w", f"{name}.b", 6, k, n)


def solve(model, name, rows, form=None):
    layer = Affine(model.weights[f"{name}.w"], model.weights[f"{name}.b"])
    gram = Gram(layer.weight.shape[1]).add(rows)
    return solve_linear(layer, gram, form or Int8Static(1.0, TARGET.block))


def reference(x, solved):
    seen = solved.seen
    codes = Codes(np.array(seen.scale, np.float32), np.array(seen.zero, np.int32))
    return codes.of(x).astype(np.float64) @ solved.weight.T + solved.bias


def test_offers_follow_those_of_int8():
    site = Linear("fc", "fc.w", None, 128, 384, 1536)
    offers, refusals = choices(site, VNNI)
    assert [o.density for o in offers] == [1.0, 0.75, 0.5, 0.375, 0.25]
    assert not refusals
    both, _ = choices(site, VNNI, Int8StaticConfig(("minmax", "percentile 99.99")))
    assert len(both) == 10
    for offer in (*offers, *both):
        assert form(offer.setting, VNNI) == offer
    assert len({str(o) for o in both}) == 10
    _, refusals = choices(site, PLAIN)
    assert [(r.op, "no instruction" in r.reason) for r in refusals] == [("int8_static", True)]
    _, refusals = choices(replace(site, in_features=48), VNNI)
    assert refusals[0].op == "int8_static 0.75"


def test_the_range_comes_from_the_inputs_and_not_from_their_centred_moments(sketch):
    model = sketch((1, 3, 24), weights_of(24, 40, "fc"), lambda s: [s.linear(s.x, "fc")])
    rows = rng.uniform(3, 8, (200, 24))
    solved = solve(model, "fc", rows)
    np.testing.assert_allclose(solved.seen.scale, rows.max(0) / 255, rtol=1e-5)
    assert set(solved.seen.zero) == {0}
    assert solved.seen.bits == 8


@pytest.mark.parametrize("k", [24, 30])
def test_codes_are_made_once_for_all_that_see_the_same(sketch, execute, k):
    names = ("a", "b", "c")
    model = sketch(
        (2, 3, k), weights_of(k, 40, *names), lambda s: [s.linear(s.x, n) for n in names]
    )
    rows = rng.standard_normal((99, k))
    solved = [solve(model, n, rows * (3 if n == "c" else 1)) for n in names]
    sites = [site_of(model, n) for n in names]
    at_once, _ = format_linears(model, list(zip(sites, solved, strict=True)), TARGET)
    one_by_one = model
    for i in (1, 2, 0):
        one_by_one, _ = format_linear(one_by_one, sites[i], solved[i], TARGET)
    x = rng.standard_normal((2, 3, k)).astype(np.float32)
    for written in (at_once, one_by_one):
        assert len(calls(written, QUANTIZE_STATIC)) == 2  # c has another scale
        assert len(calls(written, PAD)) == (2 if k % 4 else 0)
        assert sum(n.endswith(".inverse") for n in written.weights) == 2
        for got, one in zip(execute(written, {"x": x}), solved, strict=True):
            wanted = reference(x, one)
            assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_no_pass_over_memory_is_left_between_two_layers(sketch, execute):
    """Bias, GELU and quantisation of the hidden layer are in the kernel of the first one."""
    w = weights_of(32, 64, "up") | {
        "down.w": rng.standard_normal((32, 64)).astype(np.float32),
        "down.b": rng.standard_normal(32).astype(np.float32),
    }

    def draw(s):
        hidden = s.bb.emit(relax.op.nn.gelu(s.linear(s.x, "up")))
        return [s.linear(hidden, "down")]

    model = sketch((2, 3, 32), w, draw)
    rows = rng.standard_normal((99, 32)).astype(np.float32)
    up = solve(model, "up", rows)
    down = solve(model, "down", np.maximum(rows @ w["up.w"].T, 0))
    pairs = [(site_of(model, "up"), up), (site_of(model, "down"), down)]
    written, _ = format_linears(model, pairs, TARGET)
    lowered = lower(written, TARGET)
    assert [k.name for k in kernels(lowered)] == [
        "quantize_static",
        "linear_int8_static_add_gelu_quantize_static",
        "linear_int8_static_add",
    ]
    x = rng.standard_normal((2, 3, 32)).astype(np.float32)
    (exact,), (fused,) = execute(written, {"x": x}), execute(lowered, {"x": x})
    assert np.abs(fused - exact).max() < 1e-2 * np.abs(exact).max()


def test_layers_of_one_shape_share_a_kernel(sketch):
    names = ("a", "b")
    model = sketch(
        (2, 3, 24),
        weights_of(24, 24, *names),
        lambda s: [s.linear(s.bb.emit(relax.op.nn.relu(s.linear(s.x, "a"))), "b")],
    )
    rows = rng.standard_normal((99, 24))
    pairs = [(site_of(model, n), solve(model, n, rows * (1 + i))) for i, n in enumerate(names)]
    written, _ = format_linears(model, pairs, TARGET)
    functions = [gv.name_hint for gv, _ in written.mod.functions_items()]
    assert sorted(functions) == ["linear_int8_static", "main", "quantize_static"]


def test_errors(sketch):
    model = sketch((1, 3, 16), weights_of(16, 32, "fc"), lambda s: [s.linear(s.x, "fc")])
    solved = solve(model, "fc", rng.standard_normal((50, 16)))
    bare = Solved(solved.format, solved.weight, solved.bias, {"scale": solved.scale})
    with pytest.raises(PassError, match="static scales and has none"):
        format_linear(model, site_of(model, "fc"), bare, TARGET)
    off = replace(solved, weight=solved.weight * 1.001)
    with pytest.raises(PassError, match="not on its int8 grid"):
        format_linear(model, site_of(model, "fc"), off, TARGET)


@pytest.mark.parametrize("outlier", ["inputs", "weights"])
def test_a_channel_a_hundred_times_larger_costs_little(outlier):
    """Each channel's scale divides its inputs and multiplies its weights: the factor is balanced."""
    x, weight = rng.standard_normal((400, 48)), rng.standard_normal((40, 48)) / 7
    x[:, 5] *= 100
    if outlier == "inputs":  # the weights make up for it, as where a norm's gain is large
        weight[:, 5] /= 100
    solved = solve_linear(Affine(weight), Gram(48).add(x), Int8Static(1.0, TARGET.block))
    seen = solved.seen
    own = Codes(np.array(seen.scale, np.float32), np.array(seen.zero, np.int32))
    spread = x.max() - x.min()
    zero = np.full(48, np.rint(-x.min() / spread * 255), np.int32)
    one = Codes(np.full(48, spread / 255, np.float32), zero)

    def lost(codes, effective):
        wanted = x @ weight.T
        got = codes.of(x.astype(np.float32)).astype(np.float64) @ effective.T
        return np.square(got - wanted).sum() / np.square(wanted).sum()

    plain = quantize_rows(weight, x.T @ x)[0]
    assert lost(own, solved.weight) < 5e-4
    if outlier == "inputs":
        assert lost(own, solved.weight) < 0.02 * lost(one, plain)
    assert lost(own, solved.weight) <= lost(one, plain)


def test_symmetric_codes_have_one_zero_and_cost_what_signs_waste():
    x, weight = np.maximum(rng.standard_normal((300, 24)), 0), rng.standard_normal((40, 24))
    gram = Gram(24).add(x)
    plain, symmetric = (
        solve_linear(Affine(weight), gram, Int8Static(1.0, TARGET.block, symmetric=s))
        for s in (False, True)
    )
    assert set(plain.seen.zero) == {0}
    assert set(symmetric.seen.zero) == {128}
    np.testing.assert_allclose(symmetric.seen.scale, x.max(0) / 127, rtol=1e-5)
    ratio = np.array(symmetric.seen.scale) / plain.seen.scale
    np.testing.assert_allclose(ratio, 255 / 127, rtol=1e-5)
    site = Linear("fc", "fc.w", None, 128, 384, 1536)
    (offer, *_), _ = choices(site, VNNI, Int8StaticConfig(symmetric=True))
    assert offer.setting == {"symmetric": True}
    assert form(offer.setting, VNNI) == offer


def test_the_best_range_is_that_of_the_least_error_of_the_outputs():
    """Values that are rare and large, in inputs that matter little: clipping them pays."""
    weight = rng.standard_normal((40, 24))
    tail = rng.standard_normal((600, 24))
    tail[3] *= 60
    errors, chosen = {}, {}
    for name, x in (("tail", tail), ("even", rng.uniform(-1, 1, (600, 24)))):
        gram = Gram(24).add(x)
        for method in (*RANGES, BEST):
            given = Int8Static(1.0, TARGET.block, method)
            effective, parts = given.represent(weight.astype(np.float32), None, gram)
            chosen[name, method] = parts["x_scale"]
            errors[name, method] = given._error(weight, effective, parts, gram.values.rows)
        assert errors[name, BEST] <= min(errors[name, m] for m in RANGES) / WORTH
    np.testing.assert_array_equal(chosen["even", BEST], chosen["even", "minmax"])
    assert str(Int8Static(1.0, 32, BEST)) == "int8 static best"
