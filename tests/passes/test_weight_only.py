"""Weight-only int8 and int4 in the graph: where they are offered, and what they compute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tvm import relax

from passes.errors import PassError
from passes.format_linear import format_linear
from passes.formats import EXACT
from passes.lower import lower
from passes.sites import Linear
from passes.solve.gram import Gram, squared_error
from passes.solve.site import Affine, solve_formats, solve_linear
from passes.weight_only import WeightOnly, WeightOnlyConfig, choices, form
from targets.kernels.window import Window
from targets.target import find

TARGET = find("x86-64-v4")
FORMS = [WeightOnly(8, 32), WeightOnly(4, 16), WeightOnly(4, 8, False), WeightOnly(8, 16, False)]
rng = np.random.default_rng(8)


def site(k, n, rows=1, window=None):
    return Linear("fc", "fc.w", "fc.b", rows, k, n, window)


def weights_of(n, k):
    return {
        "fc.w": rng.standard_normal((n, k)).astype(np.float32),
        "fc.b": rng.standard_normal(n).astype(np.float32),
    }


def gram_of(k):
    return Gram(k).add(rng.standard_normal((150, k)) @ rng.standard_normal((k, k)) + 1)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("lead", [(1,), (2, 3)], ids=str)
def test_it_computes_the_effective_weight(sketch, execute, lead, form):
    k, n = 45, 37
    w = weights_of(n, k)
    model = sketch((*lead, k), w, lambda s: [s.bb.emit(relax.op.nn.relu(s.linear(s.x, "fc")))])
    solved = solve_linear(Affine(w["fc.w"], w["fc.b"]), gram_of(k), form)
    assert solved.seen == EXACT
    written, report = format_linear(model, site(k, n), solved, TARGET)
    x = rng.standard_normal((*lead, k))
    wanted = np.maximum(x @ solved.weight.T.astype(np.float64) + solved.bias, 0)
    for made in (written, lower(written, TARGET)):
        (got,) = execute(made, {"x": x})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())
    assert [(c.site, c.detail) for c in report.rewrites] == [("fc", str(form))]
    suffixes = ["q", "scale"] if form.symmetric else ["q", "scale", "zero"]
    assert sorted(written.weights) == ["fc.b", *(f"fc.w.{s}" for s in suffixes)]


def test_bits_cost_bytes_and_buy_precision(sketch):
    k, n = 128, 64
    w, gram = weights_of(n, k), gram_of(128)
    model = sketch((1, k), w, lambda s: [s.linear(s.x, "fc")])
    forms = [WeightOnly(8, 128), WeightOnly(4, 32), WeightOnly(4, 64)]
    all_solved = solve_formats(Affine(w["fc.w"], w["fc.b"]), gram, forms)
    written = [format_linear(model, site(k, n), s, TARGET)[0] for s in all_solved]
    bias = n * 4
    assert [m.size_bytes - bias for m in written] == [
        n * k + n * 4, n * k // 2 + n * 4 * 4, n * k // 2 + n * 2 * 4,
    ]  # fmt: skip
    xx = gram.centred().xx
    errors = [squared_error(s.weight - w["fc.w"], xx).sum() for s in all_solved]
    assert errors[0] < 0.02 * errors[1]
    assert errors[1] < errors[2]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_a_kernel_costs_is_known_before_it_is_solved(form):
    w = weights_of(12, 45)
    solved = solve_linear(Affine(w["fc.w"]), gram_of(45), form)
    blank = replace(solved, weight=0 * solved.weight, parts=form.placeholder(12, 45))
    real, empty = (form.pack(s, site(45, 12), TARGET.block) for s in (solved, blank))
    assert list(real) == list(empty)
    for name, array in real.items():
        assert (array.shape, array.dtype) == (empty[name].shape, empty[name].dtype)


def test_weights_off_their_grid_are_refused(sketch):
    w = weights_of(12, 24)
    model = sketch((1, 24), w, lambda s: [s.linear(s.x, "fc")])
    solved = solve_linear(Affine(w["fc.w"]), gram_of(24), FORMS[1])
    with pytest.raises(PassError, match="int4 grid"):
        format_linear(model, site(24, 12), replace(solved, weight=w["fc.w"]), TARGET)
    with pytest.raises(PassError, match="has no scale_of_group"):
        format_linear(model, site(24, 12), replace(solved, parts={}), TARGET)


def test_offers_have_fewer_and_fewer_bits():
    offers, refusals = choices(site(4096, 1000), TARGET)
    assert [(o.bits, o.group) for o in offers] == [(8, 128), (4, 64), (4, 32)]
    assert refusals == []
    assert [form(o.setting, TARGET) for o in offers] == offers


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (site(512, 512, rows=128), "128 rows make arithmetic the limit"),
        (site(64, 64), "4096 weights are too few"),
        (site(1152, 256, 1, Window(8, 8, 128, (3, 3))), "convolution"),
    ],
)
def test_layers_that_do_not_wait_for_memory_are_refused(where, reason):
    offers, refusals = choices(where, TARGET, WeightOnlyConfig())
    assert offers == []
    assert reason in refusals[0].reason
