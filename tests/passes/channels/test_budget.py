"""Multiply-adds are counted right for any widths, and budgets are kept in whole steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tvm import relax

from passes.channels.budget import LEAST, most_important, ranked_widths, uniform_widths
from passes.channels.groups import find_groups
from passes.channels.importance import magnitude
from passes.channels.macs import Work, macs
from passes.channels.prune import prune_channels
from passes.errors import PassError
from targets.target import find

op = relax.op
TARGET = replace(find("x86-64-v4"), vector_bits=128)  # blocks of 8: small models have several


def network(draft):
    net = draft((2, 8, 8, 3))
    h = net.relu(net.conv(net.x, "stem", 32, strides=2))
    h = net.conv(h, "depthwise", 32, groups=32)
    inner = net.relu(net.linear(h, "inner", 48))
    h = net.emit(op.add(net.conv(inner, "outer", 32), h))
    both = net.emit(op.concat([h, inner], axis=-1))
    return net.model(net.linear(net.pooled(both), "head", 5))


def test_macs_by_hand(draft):
    model = network(draft)
    pixels = 2 * 4 * 4
    stem, depthwise, inner = 32 * 3 * 9, 32 * 9, 48 * 32
    outer = 32 * 48 * 9
    assert macs(model) == pixels * (stem + depthwise + inner + outer) + 2 * 5 * 80


def test_work_of_widths_is_that_of_the_pruned_model(draft):
    model = network(draft)
    groups, _ = find_groups(model)
    work = Work(model, groups)
    rng = np.random.default_rng(0)
    for _ in range(4):
        widths = {g: int(rng.integers(1, g.size + 1)) for g in groups}
        pruned, _ = prune_channels(model, {g: range(w) for g, w in widths.items()})
        assert work.total(widths) == macs(pruned)
    assert work.total({}) == macs(model)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("ranked", [False, True])
def test_widths_for_a_share(draft, share, ranked):
    assert TARGET.block == 8
    model = network(draft)
    groups, _ = find_groups(model)
    if ranked:
        importance = {g: magnitude(model, g) for g in groups}
        widths = ranked_widths(model, importance, share, TARGET)
    else:
        widths = uniform_widths(model, groups, share, TARGET)
    for group, width in widths.items():
        assert width == group.size or width % group.step(TARGET) == 0
        assert width >= LEAST * group.size
    work = Work(model, groups)
    full = work.total({})
    assert work.total(widths) <= share * full
    # one step more in every group would be too much
    wider = {g: min(g.size, w + g.step(TARGET)) for g, w in widths.items()}
    assert work.total(wider) > share * full


def test_unimportant_groups_give_more(draft):
    model = network(draft)
    first, second = find_groups(model)[0]
    high, low = np.ones(32), np.full(48, 1e-3)
    widths = ranked_widths(model, {first: high, second: low}, 0.5, TARGET)
    assert (widths[first], widths[second]) == (32, 16)


def test_all_may_stay(draft):
    model = network(draft)
    groups, _ = find_groups(model)
    assert uniform_widths(model, groups, 1.0, TARGET) == {g: g.size for g in groups}
    importance = {g: np.ones(g.size) for g in groups}
    assert ranked_widths(model, importance, 1.0, TARGET) == {g: g.size for g in groups}


def test_a_share_that_cannot_be_had_is_refused(draft):
    model = network(draft)
    groups, _ = find_groups(model)
    with pytest.raises(PassError, match="cannot make the model that small"):
        uniform_widths(model, groups, 0.001, TARGET)
    with pytest.raises(PassError, match="cannot make the model that small"):
        ranked_widths(model, {groups[0]: np.ones(32)}, 0.1, TARGET)


def test_most_important_units_in_their_order():
    assert most_important(np.array([3.0, 1.0, 2.0, 5.0]), 2).tolist() == [0, 3]
