"""Low-rank layers in the graph: the product of the factors, from two layers of the canonical form."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from passes.errors import PassError
from passes.low_rank import LowRankConfig, choices, factorize_linear, factorize_linears
from passes.lower import lower
from passes.sites import Linear, find_sites
from passes.solve.low_rank import Factors, factorize
from targets.target import find

TARGET = find("x86-64-v4")
rng = np.random.default_rng(3)


def weights_of(k, n, name="fc"):
    return {
        f"{name}.w": rng.standard_normal((n, k)).astype(np.float32),
        f"{name}.b": rng.standard_normal(n).astype(np.float32),
    }


def factors_of(weight, rank):
    return factorize(weight, np.eye(weight.shape[1]), rank)


def site(k, n, name="fc"):
    return Linear(name, f"{name}.w", f"{name}.b", 6, k, n)


@pytest.mark.parametrize("lead", [(1,), (2, 3), (2, 3, 5)])
def test_it_computes_the_product_of_the_factors(sketch, execute, lead):
    k, n = 19, 13
    w = weights_of(k, n)
    model = sketch((*lead, k), w, lambda s: [s.bb.emit(relax.op.nn.relu(s.linear(s.x, "fc")))])
    factors = factors_of(w["fc.w"], 5)
    written, report = factorize_linear(model, site(k, n), factors)
    x = rng.standard_normal((*lead, k))
    wanted = np.maximum(x @ factors.product.T.astype(np.float64) + w["fc.b"], 0)
    for made in (written, lower(written, TARGET)):
        (got,) = execute(made, {"x": x})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    assert set(written.weights) == {"fc.w.first", "fc.w.second", "fc.b"}
    assert set(model.weights) == {"fc.w", "fc.b"}
    assert [(c.site, c.detail) for c in report.rewrites] == [("fc", "rank 5")]


def test_both_layers_are_sites_like_any_other(sketch):
    w = weights_of(19, 13)
    model = sketch((2, 3, 19), w, lambda s: [s.linear(s.x, "fc")])
    written, _ = factorize_linear(model, site(19, 13), factors_of(w["fc.w"], 5))
    first, second = find_sites(written).linears
    assert (first.weight, first.bias, first.out_features) == ("fc.w.first", None, 5)
    assert (second.weight, second.bias, second.in_features) == ("fc.w.second", "fc.b", 5)


def test_several_layers_and_other_biases(sketch, execute):
    w = weights_of(12, 12, "a") | weights_of(12, 12, "b")
    model = sketch((2, 12), w, lambda s: [s.linear(s.linear(s.x, "a"), "b")])
    a, b = factors_of(w["a.w"], 12), factors_of(w["b.w"], 3)
    bias = np.ones(12, np.float32)
    layers = [(site(12, 12, "a"), a), (site(12, 12, "b"), b)]
    written, report = factorize_linears(model, layers, {"b.b": bias})
    x = rng.standard_normal((2, 12))
    wanted = (x @ w["a.w"].T + w["a.b"]) @ b.product.T + bias
    (got,) = execute(written, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert [c.site for c in report.rewrites] == ["a", "b"]


def test_a_weight_that_is_read_twice_is_refused(sketch):
    w = weights_of(12, 12)
    model = sketch((2, 12), w, lambda s: [s.linear(s.linear(s.x, "fc"), "fc")])
    with pytest.raises(PassError, match="shares a weight"):
        factorize_linear(model, site(12, 12), factors_of(w["fc.w"], 3))


def test_factors_of_another_shape_or_type_are_refused(sketch):
    w = weights_of(12, 9)
    model = sketch((2, 12), w, lambda s: [s.linear(s.x, "fc")])
    right = factors_of(w["fc.w"], 3)
    for wrong in (
        Factors(right.first[:, :11], right.second),
        Factors(right.first[:2], right.second),
        Factors(right.first, right.second.astype(np.float64)),
    ):
        with pytest.raises(PassError, match="factors"):
            factorize_linear(model, site(12, 9), wrong)


def test_a_weight_that_is_no_linear_layer_is_refused(sketch):
    w = weights_of(12, 9)
    model = sketch((9, 12), w, lambda s: [s.bb.emit(relax.op.add(s.x, s.params["fc.w"]))])
    linear = Linear("fc", "fc.w", None, 9, 12, 9)
    with pytest.raises(PassError, match="canonical"):
        factorize_linear(model, linear, factors_of(w["fc.w"], 3))


def test_offers_are_ranks_of_full_blocks_that_save_enough():
    offers, refusals = choices(site(768, 3072), TARGET)
    assert [o["rank"] for o in offers] == [448, 384, 320, 224, 160, 64]
    assert all(o["rank"] % TARGET.block == 0 for o in offers)
    assert refusals == []


@pytest.mark.parametrize(
    ("k", "n", "reason"), [(40, 60, "rank 32 leaves 133% of the products"), (30, 90, "is full")]
)
def test_ranks_that_save_nothing_are_refused_with_the_reason(k, n, reason):
    offers, refusals = choices(site(k, n), TARGET)
    assert offers == []
    assert len(refusals) == len(LowRankConfig().shares)
    assert all(r.site == "fc" and reason in r.reason for r in refusals)
