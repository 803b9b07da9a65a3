"""Pruned models compute the same compiled, and what cannot be done is refused."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from passes.channels.groups import find_groups
from passes.channels.prune import ChannelsConfig, choices, prune_channels
from passes.errors import PassError
from targets.target import find

op = relax.op


def residual(draft):
    net = draft((2, 7, 5, 3))
    stem = net.relu(net.conv(net.x, "stem", 8, strides=2))
    branch = net.conv(net.relu(net.conv(stem, "inner", 5)), "outer", 8)
    h = net.relu(net.emit(op.add(branch, stem)))
    return net.model(net.linear(net.flat(h), "head", 3))


def mobile(draft):
    """Depthwise and grouped convolutions, squeeze and excitation, concatenation, split, shuffle."""
    net = draft((1, 6, 6, 3))
    h = net.relu(net.conv(net.x, "stem", 6))
    h = net.relu(net.conv(h, "depthwise", 12, groups=6))
    gate = net.emit(op.mean(h, axis=[1, 2], keepdims=True))
    h = net.emit(op.multiply(h, net.emit(op.sigmoid(net.linear(gate, "gate", 12)))))
    h = net.linear(h, "mix", 8)
    parts = net.emit(op.split(h, 2, axis=-1))
    first, second = (net.emit(relax.TupleGetItem(parts, i)) for i in range(2))
    h = net.emit(op.concat([second, net.conv(first, "grouped", 8, groups=2)], axis=-1))
    shuffled = net.emit(op.permute_dims(net.emit(op.reshape(h, (1, 6, 6, 2, 6))), [0, 1, 2, 4, 3]))
    h = net.conv(net.emit(op.reshape(shuffled, (1, 6, 6, 12))), "last", 4)
    return net.model(net.linear(net.pooled(h), "head", 3), net.pooled(first))


@pytest.mark.parametrize("build", [residual, mobile])
def test_compiled(draft, evaluate, execute, build):
    model = build(draft)
    groups, _ = find_groups(model)
    keep = {g: np.arange(g.size)[::-2] for g in groups}  # any order means the same
    pruned, report = prune_channels(model, keep)
    assert pruned.size_bytes < model.size_bytes
    assert all(model.weights[s.weight].size > pruned.weights[s.weight].size
               for g in groups for s in g.slices)  # fmt: skip
    assert {c.site for c in report.rewrites} == {g.name for g in groups}
    x = np.random.default_rng(1).standard_normal(model.inputs[0].shape).astype(np.float32)
    for got, want in zip(execute(pruned, {"x": x}), evaluate(pruned, x), strict=True):
        assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def test_a_removed_channel_that_is_a_constant_reaches_nothing(draft, evaluate):
    model = residual(draft)
    groups, _ = find_groups(model)
    inner = groups[1]
    weights = {"inner.b": np.full(5, 3, np.float32), "inner.w": 0 * model.weights["inner.w"]}
    pruned, report = prune_channels(model, {inner: [4, 1]}, weights)
    assert [c.detail for c in report.rewrites] == ["2 of 5 channels"]
    outer = model.weights["outer.w"].copy()
    outer[:, [0, 2, 3]] = 0
    x = np.random.default_rng(0).standard_normal((2, 7, 5, 3))
    (want,) = evaluate(model, x, {**weights, "outer.w": outer})
    (got,) = evaluate(pruned, x)
    assert np.abs(got - want).max() < 1e-9
    assert np.abs(got - evaluate(model, x, weights)[0]).max() > 1e-3


def test_groups_of_an_earlier_form_of_the_model(draft, evaluate):
    model = residual(draft)
    groups, _ = find_groups(model)
    outer, inner = groups
    at_once, _ = prune_channels(model, {outer: [0, 5], inner: [1, 2]})
    first, _ = prune_channels(model, {inner: [1, 2]})
    one_by_one, _ = prune_channels(first, {outer: [0, 5]})
    assert one_by_one.weights.keys() == at_once.weights.keys()
    for name, weight in at_once.weights.items():
        assert np.array_equal(one_by_one.weights[name], weight)
    with pytest.raises(PassError, match="has no group") as error:
        prune_channels(first, {inner: [0, 3]})
    assert "one of 2" in str(error.value)


def test_nothing_pruned_changes_nothing(draft):
    model = residual(draft)
    same, report = prune_channels(model, {})
    assert not report.modified
    assert same.weights.keys() == model.weights.keys()


@pytest.mark.parametrize("keep", [[], [1, 1], [0, 5], [-1, 2]])
def test_bad_channels_are_refused(draft, keep):
    model = residual(draft)
    groups, _ = find_groups(model)
    with pytest.raises(PassError, match="cannot keep these channels"):
        prune_channels(model, {groups[1]: keep})


def test_choices_are_steps_and_narrower(draft):
    net = draft((1, 4, 4, 3))
    model = net.model(net.linear(net.pooled(net.conv(net.x, "a", 96)), "b", 2))
    (group,), _ = find_groups(model)
    target = find("x86-64-v4")
    offers, refusals = choices(group, target, ChannelsConfig(shares=(1.0, 0.9, 0.6, 0.3, 0.01)))
    assert offers == [{"channels": 64}, {"channels": 32}]
    assert {r.op for r in refusals} == {"prune_channels 1", "prune_channels 0.9"}
    assert all(r.site == group.name and "removes none" in r.reason for r in refusals)
