"""Where int8 is offered, dense or sparse, and what it becomes in the graph."""

from __future__ import annotations

import numpy as np
import pytest

from passes.format_linear import format_linear
from passes.formats import Balanced
from passes.int8 import Int8, Int8Config, choices, form
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from targets.target import find

VNNI, PLAIN = find("icelake-server"), find("x86-64-v3")


def site(k, n):
    return Linear("layer0.ffn.up", "fc.w", None, 128, k, n)


def test_offers_are_dense_and_sparse_int8():
    offers, refusals = choices(site(384, 1536), VNNI)
    assert [o.density for o in offers] == [1.0, 0.75, 0.5, 0.375, 0.25]
    assert refusals == []
    assert form(offers[0].setting, VNNI) == offers[0] == Int8(1.0, VNNI.block)
    assert form(offers[2].setting, VNNI) == offers[2]
    assert offers[2].structure == Balanced(0.5, 4, VNNI.block)
    assert offers[2].structure.kept(384) == 48


def test_a_target_without_dot_products_is_refused_unless_asked_for():
    offers, refusals = choices(site(384, 1536), PLAIN)
    assert offers == []
    assert [(r.op, "x86-64-v3 has no instruction" in r.reason) for r in refusals] == [
        ("int8", True)
    ]
    offers, _ = choices(site(384, 1536), PLAIN, Int8Config(needs_dot_product=False))
    assert offers[0] == Int8(1.0, PLAIN.block)


@pytest.mark.parametrize(("k", "n"), [(16, 384), (384, 8)])
def test_small_layers_stay_float(k, n):
    offers, refusals = choices(site(k, n), VNNI)
    assert offers == []
    assert f"{min(k, n)} " in refusals[0].reason
    assert "too few to pay for quantising" in refusals[0].reason


def test_sparse_int8_has_the_limits_of_sparsity():
    offers, refusals = choices(site(48, 384), VNNI)
    assert offers == [Int8(1.0, VNNI.block)]
    assert {r.op for r in refusals} == {"int8 0.75", "int8 0.5", "int8 0.375", "int8 0.25"}


def test_quantize_writes_codes_scales_and_sums(sketch):
    rng = np.random.default_rng(0)
    w = {"fc.w": rng.standard_normal((40, 50)).astype(np.float32)}
    model = sketch((1, 3, 50), w, lambda s: [s.linear(s.x, "fc")])
    gram = Gram(50).add(rng.standard_normal((200, 50)))
    solved = solve_linear(Affine(w["fc.w"]), gram, form({"density": 1.0}, VNNI))
    written, report = format_linear(model, site(50, 40), solved, VNNI)
    assert report.rewrites[0].detail == "int8"
    assert list(written.weights) == ["fc.w.q", "fc.w.scale", "fc.w.sum"]
    q = written.weights["fc.w.q"].transpose(0, 2, 1, 3).reshape(64, 52)[:40, :50]
    np.testing.assert_array_equal(q * solved.scale[:, None], solved.weight)
    np.testing.assert_array_equal(written.weights["fc.w.sum"], q.sum(axis=1, dtype=np.int32))
