"""Where bfloat16 is offered, and what it becomes in the graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from passes.bf16 import Bf16, Bf16Config, choices, form
from passes.errors import PassError
from passes.format_linear import format_linear, format_linears
from passes.formats import BFLOAT16
from passes.lower import lower
from passes.seen import ROUND
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from targets.kernels.linear_bf16 import bf16_bits, bf16_values
from targets.kernels.window import Window
from targets.target import find

TARGET = find("znver4")
rng = np.random.default_rng(0)


def site(k, n, name="fc", window=None):
    return Linear(name, f"{name}.w", f"{name}.b", 128, k, n, window)


def layer(k, n, name="fc"):
    weight = rng.standard_normal((n, k)).astype(np.float32)
    return {f"{name}.w": weight, f"{name}.b": rng.standard_normal(n).astype(np.float32)}


def solve(weights, name="fc"):
    weight, bias = weights[f"{name}.w"], weights[f"{name}.b"]
    gram = Gram(weight.shape[1]).add(rng.standard_normal((300, weight.shape[1])))
    return solve_linear(Affine(weight, bias), gram, Bf16())


@pytest.mark.parametrize("name", ["znver4", "znver5", "sapphirerapids"])
def test_offered_where_there_is_an_instruction(name):
    offers, refusals = choices(site(384, 1536), find(name))
    assert offers == [Bf16()] == [form(Bf16().setting, find(name))]
    assert refusals == []
    assert str(offers[0]) == "bf16"


def test_refused_where_there_is_none_unless_asked_for():
    offers, refusals = choices(site(384, 1536), find("icelake-server"))
    assert offers == []
    assert "icelake-server has no instruction for bfloat16" in refusals[0].reason
    anyway = Bf16Config(needs_instruction=False)
    assert choices(site(384, 1536), find("icelake-server"), anyway) == ([Bf16()], [])


@pytest.mark.parametrize(("k", "n"), [(16, 384), (384, 8)])
def test_small_layers_stay_float(k, n):
    offers, refusals = choices(site(k, n), TARGET)
    assert offers == []
    assert f"{min(k, n)} " in refusals[0].reason
    assert "too few to pay for rounding" in refusals[0].reason


def test_convolutions_are_refused():
    window = Window(8, 8, 32, (3, 3), padding=(1, 1, 1, 1))
    offers, refusals = choices(site(288, 64, window=window), TARGET)
    assert offers == []
    assert "no bfloat16 kernel for convolutions" in refusals[0].reason


def test_solved_weights_are_the_nearest():
    weights = layer(50, 40)
    solved = solve(weights)
    np.testing.assert_array_equal(solved.weight, bf16_values(bf16_bits(weights["fc.w"])))
    assert solved.seen == BFLOAT16


def test_weights_take_half_the_memory_and_inputs_are_rounded_once(sketch, execute):
    names, k, n = ("a", "b"), 49, 40
    weights = layer(k, n, "a") | layer(k, n, "b")
    model = sketch((2, 3, k), weights, lambda s: [s.linear(s.x, name) for name in names])
    solved = [(site(k, n, name), solve(weights, name)) for name in names]
    at_once, report = format_linears(model, solved, TARGET)
    one_by_one = model
    for linear, one in reversed(solved):
        one_by_one, _ = format_linear(one_by_one, linear, one, TARGET)
    assert [c.detail for c in report.rewrites] == ["bf16", "bf16"]
    assert at_once.weights["a.w.b"].nbytes == 64 * 50 * 2
    x = rng.standard_normal((2, 3, k)).astype(np.float32)
    rounded = bf16_values(bf16_bits(x)).astype(np.float64)
    for written in (at_once, one_by_one):
        assert str(written.mod.script()).count(f"call_tir(cls.{ROUND}") == 1
        for got, (_, one) in zip(execute(written, {"x": x}), solved, strict=True):
            wanted = rounded @ one.weight.T.astype(np.float64) + one.bias
            assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_rounding_is_fused_into_what_only_it_reads(sketch):
    weights = layer(32, 48, "up") | layer(48, 32, "down")
    model = sketch((2, 3, 32), weights, lambda s: [s.linear(s.linear(s.x, "up"), "down")])
    solved = [
        (site(32, 48, "up"), solve(weights, "up")),
        (site(48, 32, "down"), solve(weights, "down")),
    ]
    written, _ = format_linears(model, solved, TARGET)
    lowered = lower(written, TARGET)
    names = [gv.name_hint for gv, f in lowered.mod.functions_items() if gv.name_hint != "main"]
    assert any("linear_bf16" in name and ROUND in name for name in names), names


def test_a_weight_that_is_not_bfloat16_is_refused(sketch):
    weights = layer(32, 40)
    model = sketch((1, 3, 32), weights, lambda s: [s.linear(s.x, "fc")])
    solved = solve(weights)
    off = replace(solved, weight=weights["fc.w"])
    with pytest.raises(PassError, match="is to be bfloat16"):
        format_linear(model, site(32, 40), off, TARGET)
