"""Low-rank layers in the graph: the product of the factors, from two layers of the canonical form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tvm import relax

from passes.errors import PassError
from passes.find_sites import find_sites
from passes.format_linear import format_linear
from passes.low_rank import LowRank, LowRankConfig, choices, conv_on, form
from passes.lower import lower
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from targets.kernels.window import Window
from targets.target import find

TARGET = find("x86-64-v4")
rng = np.random.default_rng(3)


def site(k, n, window=None):
    return Linear("fc", "fc.w", "fc.b", 6, k, n, window)


def solved_for(weights, k, rank):
    gram = Gram(k).add(rng.standard_normal((99, k)) + 1)
    layer = Affine(weights["fc.w"].reshape(-1, k), weights["fc.b"])
    return solve_linear(layer, gram, LowRank(rank))


def weights_of(*shape):
    return {
        "fc.w": rng.standard_normal(shape).astype(np.float32),
        "fc.b": rng.standard_normal(shape[0]).astype(np.float32),
    }


@pytest.mark.parametrize("lead", [(1,), (2, 3), (2, 3, 5)], ids=str)
def test_it_computes_the_effective_weight(sketch, execute, lead):
    k, n = 19, 13
    w = weights_of(n, k)
    model = sketch((*lead, k), w, lambda s: [s.bb.emit(relax.op.nn.relu(s.linear(s.x, "fc")))])
    solved = solved_for(w, k, 5)
    assert np.linalg.matrix_rank(solved.weight.astype(np.float64), 1e-4) == 5
    written, report = format_linear(model, site(k, n), solved, TARGET)
    x = rng.standard_normal((*lead, k))
    wanted = np.maximum(x @ solved.weight.T.astype(np.float64) + solved.bias, 0)
    for made in (written, lower(written, TARGET)):
        (got,) = execute(made, {"x": x})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())
    assert {n: w.shape for n, w in written.weights.items()} == {
        "fc.b": (13,), "fc.w.first": (5, 19), "fc.w.second": (13, 5),
    }  # fmt: skip
    assert [(c.site, c.detail) for c in report.rewrites] == [("fc", "fp32 rank 5")]


def test_both_layers_are_sites_like_any_other(sketch):
    w = weights_of(13, 19)
    model = sketch((2, 3, 19), w, lambda s: [s.linear(s.x, "fc")])
    written, _ = format_linear(model, site(19, 13), solved_for(w, 19, 5), TARGET)
    first, second = find_sites(written).linears
    assert (first.weight, first.bias, first.out_features) == ("fc.w.first", None, 5)
    assert (second.weight, second.bias, second.in_features) == ("fc.w.second", "fc.b", 5)


def test_of_a_convolution_the_first_product_is_a_convolution(sketch, execute):
    window = Window(7, 6, 4, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2))
    w = weights_of(9, 4, 3, 2)

    def draw(s):
        y = s.bb.emit(conv_on(s.x, s.params["fc.w"], window))
        return [s.bb.emit(relax.op.add(y, s.params["fc.b"]))]

    model = sketch((2, 7, 6, 4), w, draw)
    solved = solved_for(w, 24, 5)
    written, _ = format_linear(model, site(24, 9, window), solved, TARGET)
    assert written.weights["fc.w.first"].shape == (5, 4, 3, 2)
    dense = model.with_weights({"fc.w": solved.weight.reshape(9, 4, 3, 2), "fc.b": solved.bias})
    x = rng.standard_normal((2, 7, 6, 4))
    (wanted,), (got,) = execute(dense, {"x": x}), execute(written, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


def test_what_a_kernel_costs_is_known_before_it_is_solved(sketch):
    w = weights_of(12, 20)
    solved = solved_for(w, 20, 6)
    shapes = {n: p.shape for n, p in solved.format.placeholder(12, 20).items()}
    assert shapes == {n: p.shape for n, p in solved.parts.items()}
    assert LowRank(32).placeholder(12, 20)["first"].shape == (12, 20)  # pruned below its rank


def test_factors_that_do_not_fit_are_refused(sketch):
    w = weights_of(9, 12)
    model = sketch((2, 12), w, lambda s: [s.linear(s.x, "fc")])
    right = solved_for(w, 12, 3)
    first, second = right.parts["first"], right.parts["second"]
    for wrong in (
        {"first": first[:, :11], "second": second},
        {"first": first[:2], "second": second},
        {"first": first, "second": second[:8]},
    ):
        with pytest.raises(PassError, match="factors do not fit"):
            format_linear(model, site(12, 9), replace(right, parts=wrong), TARGET)
    with pytest.raises(PassError, match="has no second"):
        format_linear(model, site(12, 9), replace(right, parts={"first": first}), TARGET)


def test_offers_are_ranks_of_full_blocks_that_save_enough():
    shares = LowRankConfig(shares=(0.75, 0.625, 0.5, 0.375, 0.25, 0.125))
    offers, refusals = choices(site(768, 3072), TARGET, shares)
    assert [o.rank for o in offers] == [448, 384, 320, 224, 160, 64]
    assert refusals == []
    assert [form(o.setting, TARGET) for o in offers] == offers
    assert len(choices(site(768, 3072), TARGET)[0]) == 3


@pytest.mark.parametrize(
    ("k", "n", "reason"), [(40, 60, "rank 32 leaves 133% of the products"), (30, 90, "is full")]
)
def test_ranks_that_save_nothing_are_refused_with_the_reason(k, n, reason):
    offers, refusals = choices(site(k, n), TARGET)
    assert offers == []
    assert len(refusals) == len(LowRankConfig().shares)
    assert all(r.site == "fc" and reason in r.reason for r in refusals)
