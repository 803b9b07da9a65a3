"""What bfloat16 and float16 share: offers by shape, weights rounded once, what becomes of a layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tvm import relax

from codesign.simulate.site_rows import windows
from passes import bf16, fp16
from passes.bf16 import Bf16
from passes.errors import PassError
from passes.format_linear import format_linear, format_linears
from passes.fp16 import Fp16
from passes.lower import lower
from passes.seen import ROUND, ROUND_FP16
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from targets.kernels.window import Window
from targets.target import find

TARGET = find("sapphirerapids")
KINDS = pytest.mark.parametrize("kind", [bf16, fp16], ids=["bf16", "fp16"])
FORMS = {bf16: Bf16(), fp16: Fp16()}
ROUNDS = {bf16: ROUND, fp16: ROUND_FP16}
WINDOW = Window(7, 6, 5, (3, 3), strides=(2, 1), padding=(1, 0, 1, 2), dilation=(1, 2))
rng = np.random.default_rng(0)


def site(k, n, name="fc", window=None):
    return Linear(name, f"{name}.w", f"{name}.b", 128, k, n, window)


def layer(k, n, name="fc", window=None):
    shape = (n, k) if window is None else (n, window.channels, *window.kernel)
    weight = rng.standard_normal(shape).astype(np.float32)
    return {f"{name}.w": weight, f"{name}.b": rng.standard_normal(n).astype(np.float32)}


def solve(weights, kind, name="fc", rows=None):
    weight, bias = weights[f"{name}.w"], weights[f"{name}.b"]
    weight = weight.reshape(len(weight), -1)
    rows = rng.standard_normal((300, weight.shape[1])) if rows is None else rows
    return solve_linear(Affine(weight, bias), Gram(weight.shape[1]).add(rows), FORMS[kind])


def error(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@KINDS
def test_one_offer_and_the_setting_that_gives_it_again(kind):
    for window in (None, Window(8, 8, 32, (3, 3), padding=(1, 1, 1, 1))):
        offers, refusals = kind.choices(site(288, 64, window=window), TARGET)
        assert offers == [FORMS[kind]] == [kind.form(offers[0].setting, TARGET)]
        assert refusals == []
        assert str(offers[0]) == kind.NAME


@KINDS
@pytest.mark.parametrize(("k", "n"), [(16, 384), (384, 8)])
def test_small_layers_stay_float(kind, k, n):
    offers, refusals = kind.choices(site(k, n), TARGET)
    assert offers == []
    assert refusals[0].op == kind.NAME
    assert f"{min(k, n)} " in refusals[0].reason
    assert "too few to pay for rounding" in refusals[0].reason


@KINDS
def test_solved_weights_are_the_nearest(kind):
    weights = layer(50, 40)
    solved = solve(weights, kind)
    np.testing.assert_array_equal(solved.weight, FORMS[kind].rounded(weights["fc.w"]))
    assert solved.seen == FORMS[kind].inputs


@KINDS
def test_weights_take_half_the_memory_and_inputs_are_rounded_once(kind, sketch, execute):
    names, k, n = ("a", "b"), 67, 40
    weights = layer(k, n, "a") | layer(k, n, "b")
    model = sketch((2, 3, k), weights, lambda s: [s.linear(s.x, name) for name in names])
    solved = [(site(k, n, name), solve(weights, kind, name)) for name in names]
    at_once, report = format_linears(model, solved, TARGET)
    one_by_one = model
    for linear, one in reversed(solved):
        one_by_one, _ = format_linear(one_by_one, linear, one, TARGET)
    assert [c.detail for c in report.rewrites] == [kind.NAME] * 2
    assert at_once.weights["a.w.b"].nbytes == 64 * FORMS[kind].filled(k) * 2
    x = rng.standard_normal((2, 3, k)).astype(np.float32)
    rounded = FORMS[kind].rounded(x).astype(np.float64)
    for written in (at_once, one_by_one):
        assert str(written.mod.script()).count(f"call_tir(cls.{ROUNDS[kind]}") == 1
        for got, (_, one) in zip(execute(written, {"x": x}), solved, strict=True):
            wanted = rounded @ one.weight.T.astype(np.float64) + one.bias
            assert error(got, wanted) < (1e-5 if kind is bf16 else 3e-3)


@KINDS
def test_a_convolution_on_odd_sizes(kind, sketch, execute):
    weights = layer(0, 37, window=WINDOW)

    def draw(s):
        y = relax.op.nn.conv2d(
            s.x, s.params["fc.w"], strides=WINDOW.strides, padding=WINDOW.padding,
            dilation=WINDOW.dilation, data_layout="NHWC", kernel_layout="OIHW", out_layout="NHWC",
        )  # fmt: skip
        return [s.bb.emit(relax.op.add(s.bb.emit(y), s.params["fc.b"]))]

    model = sketch((2, 7, 6, 5), weights, draw)
    x = rng.standard_normal((2, 7, 6, 5)).astype(np.float32)
    solved = solve(weights, kind, rows=windows(x, WINDOW))
    written, report = format_linear(model, site(45, 37, window=WINDOW), solved, TARGET)
    assert [c.detail for c in report.rewrites] == [kind.NAME]
    (got,) = execute(written, {"x": x})
    top, left, bottom, right = WINDOW.padding
    image = FORMS[kind].rounded(x).astype(np.float64).transpose(0, 3, 1, 2)
    padded = torch.nn.functional.pad(torch.from_numpy(image), (left, right, top, bottom))
    weight = torch.from_numpy(solved.weight.astype(np.float64).reshape(37, 5, 3, 3))
    wanted = torch.nn.functional.conv2d(
        padded, weight, torch.from_numpy(solved.bias.astype(np.float64)), WINDOW.strides,
        dilation=WINDOW.dilation,
    )  # fmt: skip
    assert error(got, wanted.numpy().transpose(0, 2, 3, 1)) < (1e-5 if kind is bf16 else 3e-3)


@KINDS
def test_rounding_is_fused_into_what_only_it_reads(kind, sketch):
    weights = layer(32, 48, "up") | layer(48, 32, "down")
    model = sketch((2, 3, 32), weights, lambda s: [s.linear(s.linear(s.x, "up"), "down")])
    solved = [
        (site(32, 48, "up"), solve(weights, kind, "up")),
        (site(48, 32, "down"), solve(weights, kind, "down")),
    ]
    written, _ = format_linears(model, solved, TARGET)
    lowered = lower(written, TARGET)
    names = [gv.name_hint for gv, f in lowered.mod.functions_items() if gv.name_hint != "main"]
    assert any(f"linear_{kind.NAME}" in name and ROUNDS[kind] in name for name in names), names


@KINDS
def test_a_weight_that_is_not_rounded_is_refused(kind, sketch):
    weights = layer(32, 40)
    model = sketch((1, 3, 32), weights, lambda s: [s.linear(s.x, "fc")])
    off = replace(solve(weights, kind), weight=weights["fc.w"])
    with pytest.raises(PassError, match=f"is to be {kind.NAME}"):
        format_linear(model, site(32, 40), off, TARGET)
