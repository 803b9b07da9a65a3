"""Importance and refitting are what brute-force least squares says, for one and for several consumers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import block_diag
from tvm import relax

from passes.channels.consumers import consumers_of, features_of
from passes.channels.groups import find_groups
from passes.channels.importance import magnitude, obs_cost
from passes.channels.prune import prune_channels
from passes.channels.refit import choose_channels, solve_channels
from passes.errors import PassError
from passes.solve.gram import Gram, damped
from passes.solve.removal import removal_masks

op = relax.op
rng = np.random.default_rng(0)


def branched(draft):
    """Channels of ``a`` are read by a 3x3 convolution without a bias and, beside others, by a linear layer."""
    net = draft((1, 5, 5, 3), seed=3)
    a = net.relu(net.conv(net.x, "a", 6))
    other = net.conv(net.x, "b", 4)
    conv = net.conv(a, "conv", 5, bias=False)
    linear = net.linear(net.emit(op.concat([other, a], axis=-1)), "linear", 7)
    return net.model(net.pooled(conv), net.pooled(linear))


def samples(model, rows=400):
    """Correlated inputs of the two consumers of ``a``, with a mean: channels, and windows of them."""
    mix = rng.standard_normal((10, 10))
    channels = rng.standard_normal((rows, 10)) @ mix + 0.5
    windows = np.repeat(channels[:, 4:], 9, axis=1) + 0.3 * rng.standard_normal((rows, 54))
    return {"conv.w": windows.astype(np.float32), "linear.w": channels.astype(np.float32)}


def grams(x):
    return {name: Gram(rows.shape[1]).add(rows) for name, rows in x.items()}


def best_loss(model, group, x, gone):
    """Sum of relative errors if units ``gone`` go and the rest is refitted, by plain least squares."""
    total = 0.0
    for site in group.consumers:
        weight = model.weights[site.weight].reshape(len(model.weights[site.weight]), -1)
        weight = weight.astype(np.float64)
        rows = x[site.weight].astype(np.float64)
        if site.bias is not None:
            rows = rows - rows.mean(0)
        h = damped(rows.T @ rows)
        owned = features_of(group.of(site.weight, 1).positions, site.taps)
        left = np.setdiff1d(np.arange(len(h)), owned[list(gone)])
        fitted = np.zeros_like(weight)
        fitted[:, left] = np.linalg.solve(h[np.ix_(left, left)], h[left] @ weight.T).T
        change = fitted - weight
        total += np.trace(change @ h @ change.T) / np.trace(weight @ h @ weight.T)
    return total


def test_magnitude_is_the_norm_of_all_that_a_unit_owns(draft):
    model = branched(draft)
    group, _ = find_groups(model)[0]
    w = {n: v.astype(np.float64) for n, v in model.weights.items()}
    wanted = np.sqrt(
        np.square(w["a.w"]).sum((1, 2, 3))
        + np.square(w["a.b"])
        + np.square(w["conv.w"]).sum((0, 2, 3))
        + np.square(w["linear.w"][:, 4:]).sum(0)
    )
    assert np.allclose(magnitude(model, group), wanted / wanted.mean())


def test_cost_of_a_unit_is_the_loss_of_all_consumers_without_it(draft):
    model = branched(draft)
    group, _ = find_groups(model)[0]
    x = samples(model)
    cost = obs_cost(model, group, grams(x))
    wanted = [best_loss(model, group, x, [unit]) for unit in range(6)]
    assert np.allclose(cost, wanted, rtol=1e-4)


def test_greedy_removal_and_refit(draft):
    model = branched(draft)
    group, _ = find_groups(model)[0]
    x = samples(model)
    moments = grams(x)
    gone = []
    while len(gone) < 3:  # the greedy order by brute force
        left = [unit for unit in range(6) if unit not in gone]
        gone.append(min(left, key=lambda unit: best_loss(model, group, x, [*gone, unit])))
    five, three = solve_channels(model, group, moments, [5, 3])
    assert set(range(6)) - set(five.keep) == {gone[0]}
    assert set(range(6)) - set(three.keep) == set(gone)
    assert sum(three.errors.values()) == pytest.approx(best_loss(model, group, x, gone), rel=1e-4)
    assert not three.weights["conv.w"][:, gone].any()
    assert not three.weights["linear.w"][:, [4 + unit for unit in gone]].any()
    assert set(three.weights) == {"conv.w", "linear.w", "linear.b"}
    rows = x["linear.w"].astype(np.float64)
    before = rows @ model.weights["linear.w"].T + model.weights["linear.b"]
    after = rows @ three.weights["linear.w"].T + three.weights["linear.b"]
    assert np.allclose(before.mean(0), after.mean(0), atol=1e-4)
    pruned, _ = prune_channels(model, {group: three.keep}, three.weights)
    assert pruned.weights["conv.w"].shape == (5, 3, 3, 3)


def test_a_channel_that_another_repeats_costs_nothing(draft):
    net = draft((1, 4, 4, 3))
    h = net.conv(net.x, "a", 4)
    model = net.model(net.linear(net.pooled(h), "head", 2))
    (group,), _ = find_groups(model)
    rows = rng.standard_normal((200, 4))
    rows[:, 3] = rows[:, 1]
    moments = {"head.w": Gram(4).add(rows)}
    (solved,) = solve_channels(model, group, moments, [3])
    assert {1, 3} - set(solved.keep)
    assert solved.errors["head.w"] < 0.02  # what the damping costs
    costs = obs_cost(model, group, moments)
    assert costs[[1, 3]].max() < 0.1 * costs[[0, 2]].min()


def test_all_kept_changes_no_weight(draft):
    model = branched(draft)
    group, _ = find_groups(model)[0]
    (solved,) = solve_channels(model, group, grams(samples(model)), [6])
    assert np.array_equal(solved.weights["conv.w"], model.weights["conv.w"])
    assert max(solved.errors.values()) < 1e-12


def test_many_units_are_removed_as_by_a_matrix_of_all_consumers(draft):
    """Chunks of several units, against removal over the block diagonal matrix of both consumers."""
    net = draft((1, 3, 3, 3), seed=5)
    a = net.relu(net.conv(net.x, "a", 96))
    conv, linear = net.conv(a, "conv", 6), net.linear(a, "linear", 20)
    model = net.model(net.pooled(conv), net.pooled(linear))
    (group,), _ = find_groups(model)
    channels = rng.standard_normal((600, 96)) @ rng.standard_normal((96, 96))
    windows = np.repeat(channels, 9, axis=1) + rng.standard_normal((600, 96 * 9))
    moments = grams({"conv.w": windows, "linear.w": channels})
    consumers = consumers_of(model, group, moments)
    parts = [c.on_units() for c in consumers]
    order = np.concatenate([np.arange(96 * 9).reshape(96, 9), 864 + np.arange(96)[:, None]], axis=1)
    weight = block_diag(*(w for w, _ in parts))[:, order.ravel()]
    together = block_diag(*(h for _, h in parts))[np.ix_(order.ravel(), order.ravel())]
    masks = removal_masks(weight, together, [64, 32], 10, len(weight))
    found = solve_channels(model, group, moments, [64, 32])
    for solved, (mask,) in zip(found, masks, strict=True):
        assert len(np.intersect1d(solved.keep, np.flatnonzero(mask))) >= len(solved.keep) - 1
    chosen = choose_channels(model, group, moments, [64, 32])
    assert all(np.array_equal(c, s.keep) for c, s in zip(chosen, found, strict=True))


def test_a_consumer_of_too_many_inputs_is_refused(draft, monkeypatch):
    model = branched(draft)
    group, _ = find_groups(model)[0]
    monkeypatch.setattr("passes.channels.consumers.MOST_INPUTS", 53)
    with pytest.raises(PassError, match="too many inputs") as error:
        obs_cost(model, group, grams(samples(model)))
    assert "54 inputs of conv.w" in str(error.value)


def test_refusals(draft):
    model = branched(draft)
    group, _ = find_groups(model)[0]
    moments = grams(samples(model))
    with pytest.raises(PassError, match="cannot keep that many"):
        solve_channels(model, group, moments, [0])
    with pytest.raises(PassError, match="without calibration data"):
        obs_cost(model, group, {"conv.w": moments["conv.w"]})
    with pytest.raises(PassError, match=r"does not fit linear\.w"):
        obs_cost(model, group, {**moments, "linear.w": Gram(10)})
    net = draft((1, 4, 4, 3))
    parts = net.emit(op.split(net.conv(net.x, "a", 4), 2, axis=-1))
    used = net.emit(relax.TupleGetItem(parts, 0))
    net.emit(relax.TupleGetItem(parts, 1))
    model = net.model(net.linear(net.pooled(used), "head", 2))
    unread = find_groups(model)[0][-1]
    with pytest.raises(PassError, match="no consumer"):
        obs_cost(model, unread, {})
