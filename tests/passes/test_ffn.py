"""FFN pruning removes neurons exactly, and says what it does not offer."""

from __future__ import annotations

import numpy as np
import pytest

from passes import ffn as ffn_pass
from passes.errors import PassError
from passes.ffn import FFNConfig, choices, prune_ffn, solved_weights
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_ffn
from targets.target import find

ODD = {"batch": 2, "seq": 7, "width": 12, "heads": 3, "hidden": 37, "layers": 2}


def error(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def test_pruned_ffn_is_the_dense_one_without_the_columns_of_removed_neurons(encoder, execute):
    net = encoder(**ODD)
    site = net.sites.ffns[1]
    keep = np.array([3, 0, 36, 17, 20])
    pruned, report = prune_ffn(net.model, site, keep)
    assert pruned.weights[site.up.weight].shape == (5, 12)
    assert pruned.weights[site.up.bias].shape == (5,)
    assert pruned.weights[site.down.weight].shape == (12, 5)
    assert net.model.weights[site.up.weight].shape == (37, 12)
    assert [c.detail for c in report.rewrites] == ["5 of 37 neurons"]
    down = np.zeros_like(net.model.weights[site.down.weight])
    down[:, keep] = net.model.weights[site.down.weight][:, keep]
    sample = net.sample(1)
    wanted = net.reference(sample, {site.down.weight: down})
    (got,) = execute(pruned, sample)
    assert error(got, wanted) < 1e-5
    assert error(got, net.reference(sample)) > 1e-3


def test_any_order_of_all_neurons_changes_nothing(encoder, execute):
    net = encoder(**ODD)
    order = np.random.default_rng(0).permutation(37)
    moved, _ = prune_ffn(net.model, net.sites.ffns[0], order)
    sample = net.sample(2)
    (got,) = execute(moved, sample)
    assert error(got, net.reference(sample)) < 1e-5
    up = net.sites.ffns[0].up.weight
    assert not np.array_equal(moved.weights[up], net.model.weights[up])


def test_solved_ffn_beats_cutting_the_same_neurons(encoder, execute):
    net = encoder(**ODD)
    site, weights = net.sites.ffns[1], net.model.weights
    gram = Gram(37)
    watch = lambda name, x: (gram.add(x) if name == "1.down" else None, x)[1]  # noqa: E731
    for seed in range(40):
        net.reference(net.sample(seed), seen=watch)
    up = Affine(weights[site.up.weight], weights[site.up.bias])
    down = Affine(weights[site.down.weight], weights[site.down.bias])
    solved = solve_ffn(up, down, gram, 12)
    refitted, _ = prune_ffn(net.model, site, solved.keep, solved_weights(site, solved))
    cut, _ = prune_ffn(net.model, site, solved.keep)
    sample = net.sample(99)
    dense = net.reference(sample)
    (good,), (bad,) = execute(refitted, sample), execute(cut, sample)
    assert error(good, net.reference(sample, solved_weights(site, solved))) < 1e-5
    assert np.square(good - dense).sum() < 0.7 * np.square(bad - dense).sum()


@pytest.mark.parametrize("keep", [[], [1, 1], [0, 37], [-1, 2]])
def test_bad_neurons_are_refused(encoder, keep):
    net = encoder(**ODD)
    with pytest.raises(PassError, match="cannot keep these neurons"):
        prune_ffn(net.model, net.sites.ffns[0], keep)


def test_effective_weights_of_another_shape_are_refused(encoder):
    net = encoder(**ODD)
    site = net.sites.ffns[0]
    with pytest.raises(PassError, match="cannot be replaced"):
        prune_ffn(net.model, site, [1, 2], {site.up.weight: np.zeros((2, 12), np.float32)})


def test_choices_are_full_blocks_and_narrower(encoder):
    site = encoder(hidden=96).sites.ffns[0]
    target = find("x86-64-v4")
    offers, refusals = choices(site, target, FFNConfig(shares=(1.0, 0.9, 0.6, 0.3, 0.01)))
    assert offers == [{"width": 64}, {"width": 32}]
    assert {r.op for r in refusals} == {"prune_ffn 1", "prune_ffn 0.9"}
    assert all(r.site == site.name and "removes none" in r.reason for r in refusals)
    assert ffn_pass.NAME == "prune_ffn"
