"""Which sparse formats a layer is offered, and what they become in the graph."""

from __future__ import annotations

import numpy as np
import pytest

from passes.format_linear import format_linear
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from passes.sparse import Sparse, SparseConfig, choices, form
from targets.target import find

TARGET = find("x86-64-v4")


def site(k, n):
    return Linear("layer0.ffn.up", "fc.w", "fc.b", 128, k, n)


def test_offers_are_densities_from_dense_to_sparse():
    offers, refusals = choices(site(384, 1536), TARGET)
    assert [o.density for o in offers] == [0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert refusals == []
    assert form(offers[2].setting, TARGET) == offers[2] == Sparse(0.5, TARGET.block)


@pytest.mark.parametrize(
    ("k", "n", "reason"),
    [
        (384, 20, "20 outputs do not fill one block of 32"),
        (48, 384, "48 inputs are too few to gain from sparsity"),
    ],
)
def test_small_layers_are_refused(k, n, reason):
    offers, refusals = choices(site(k, n), TARGET)
    assert offers == []
    assert len(refusals) == len(SparseConfig().densities)
    assert all(r.site == "layer0.ffn.up" and reason in r.reason for r in refusals)


def test_densities_that_keep_too_little_or_all_are_refused():
    offers, refusals = choices(site(64, 64), TARGET, SparseConfig(densities=(0.999, 0.5, 0.1)))
    assert offers == [Sparse(0.5, TARGET.block)]
    assert [(r.op, r.reason.split(" ")[0]) for r in refusals] == [
        ("sparse 0.999", "all"),
        ("sparse 0.1", "6"),
    ]


def test_sparse_layers_are_written_as_the_kept_inputs(sketch):
    rng = np.random.default_rng(0)
    w = {
        "fc.w": rng.standard_normal((40, 80)).astype(np.float32),
        "fc.b": rng.standard_normal(40).astype(np.float32),
    }
    model = sketch((1, 3, 80), w, lambda s: [s.linear(s.x, "fc")])
    gram = Gram(80).add(rng.standard_normal((200, 80)))
    solved = solve_linear(Affine(w["fc.w"], w["fc.b"]), gram, form({"density": 0.25}, TARGET))
    written, report = format_linear(model, site(80, 40), solved, TARGET)
    assert report.rewrites[0].detail == "fp32 density 0.25"
    values, index = written.weights["fc.w.values"], written.weights["fc.w.index"]
    assert values.shape == (2, 20, 32)
    dense = np.zeros((64, 80), np.float32)
    for b in range(2):
        dense[32 * b : 32 * b + 32, index[b]] = values[b].T
    np.testing.assert_array_equal(dense[:40], solved.weight)
    assert not dense[40:].any()
