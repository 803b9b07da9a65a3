"""Coupled groups of each kind of graph: their sizes, what a unit owns, and why others are refused."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from passes.channels.groups import find_groups
from passes.channels.reshapes import blocks
from targets.kernels.linear import dense
from targets.target import find

op = relax.op


def owned(groups, name):
    """{(weight, axis): positions of each unit} of a group."""
    (group,) = [g for g in groups if g.name == name]
    return group.size, {(s.weight, s.axis): s.positions.tolist() for s in group.slices}


def names(sites):
    return [s.weight for s in sites]


def reason(refusals, site):
    (refusal,) = [r for r in refusals if r.site == site]
    assert refusal.op == "prune_channels"
    return refusal.reason


def test_a_chain(draft):
    net = draft((2, 5, 5, 3))
    h = net.relu(net.conv(net.x, "a", 6))
    h = net.linear(h, "b", 4, bias=False)
    groups, refusals = find_groups(net.model(net.linear(net.pooled(h), "head", 7)))
    assert [g.name for g in groups] == ["a.w.channels", "b.w.channels"]
    assert owned(groups, "a.w.channels") == (
        6,
        {k: [[c] for c in range(6)] for k in [("a.w", 0), ("a.b", 0), ("b.w", 1)]},
    )
    first, second = groups
    assert [(s.weight, s.bias, s.rows, s.taps) for s in first.producers] == [("a.w", "a.b", 50, 9)]
    assert [(s.weight, s.bias, s.rows, s.taps) for s in first.consumers] == [("b.w", None, 50, 1)]
    assert [(s.weight, s.bias, s.rows) for s in second.consumers] == [("head.w", "head.b", 2)]
    assert len(refusals) == 1
    assert reason(refusals, "head.w.channels") == "the model's output y0 shows them"


def test_a_residual_sum_joins_its_branches(draft):
    net = draft((1, 4, 4, 3))
    stem = net.relu(net.conv(net.x, "stem", 8))
    branch = net.conv(net.relu(net.conv(stem, "inner", 5)), "outer", 8)
    h = net.relu(net.emit(op.add(branch, stem)))
    groups, _ = find_groups(net.model(net.linear(net.pooled(h), "head", 2)))
    assert [(g.name, g.size) for g in groups] == [("stem.w.channels", 8), ("inner.w.channels", 5)]
    assert names(groups[0].producers) == ["stem.w", "outer.w"]
    assert names(groups[0].consumers) == ["inner.w", "head.w"]


def test_parts_of_a_concatenation_are_groups_of_their_own(draft):
    net = draft((1, 4, 4, 3))
    a, b = net.conv(net.x, "a", 2), net.conv(net.x, "b", 3)
    both = net.emit(op.concat([a, b, a], axis=-1))
    groups, _ = find_groups(net.model(net.linear(net.pooled(both), "head", 2)))
    assert owned(groups, "a.w.channels")[1]["head.w", 1] == [[0, 5], [1, 6]]
    assert owned(groups, "b.w.channels")[1]["head.w", 1] == [[2], [3], [4]]


def test_a_weight_has_a_group_for_each_part_that_it_is_split_into(draft):
    net = draft((1, 4, 4, 3))
    parts = net.emit(op.split(net.conv(net.x, "a", 5), [2], axis=-1))
    first, second = (net.emit(relax.TupleGetItem(parts, i)) for i in range(2))
    heads = [net.linear(net.pooled(p), n, 2) for p, n in ((second, "second"), (first, "first"))]
    groups, _ = find_groups(net.model(*heads))
    assert owned(groups, "a.w.channels")[1] == {
        ("a.w", 0): [[0], [1]],
        ("a.b", 0): [[0], [1]],
        ("first.w", 1): [[0], [1]],
    }
    assert owned(groups, "a.w.channels.2")[1]["a.w", 0] == [[2], [3], [4]]


def test_groups_of_a_convolution_fall_as_a_whole(draft):
    net = draft((1, 4, 4, 3))
    h = net.conv(net.conv(net.x, "a", 6), "grouped", 9, groups=3)
    groups, _ = find_groups(net.model(net.linear(net.pooled(h), "head", 2)))
    ((size, weights),) = [owned(groups, "a.w.channels")]
    assert size == 3
    assert weights["a.w", 0] == [[0, 1], [2, 3], [4, 5]]
    assert weights["grouped.w", 0] == weights["head.w", 1] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert ("grouped.w", 1) not in weights
    assert names(groups[0].producers) == ["a.w", "grouped.w"]
    assert names(groups[0].consumers) == ["head.w"]


@pytest.mark.parametrize(("turned", "features"), [(False, [1, 4, 7, 10]), (True, [4, 5, 6, 7])])
def test_flattened_images_in_either_order(draft, turned, features):
    net = draft((1, 2, 2, 2))
    h = net.conv(net.x, "a", 3)
    h = net.emit(op.permute_dims(h, [0, 3, 1, 2])) if turned else h
    groups, _ = find_groups(net.model(net.linear(net.flat(h), "head", 2)))
    size, weights = owned(groups, "a.w.channels")
    assert size == 3
    assert weights["head.w", 1][1] == features


def test_layers_on_a_single_vector(draft):
    net = draft((1, 2, 2, 3))
    h = net.emit(op.reshape(net.conv(net.x, "a", 4), (16,)))
    y = net.linear(net.relu(net.linear(h, "b", 6)), "head", 2)
    groups, _ = find_groups(net.model(y))
    assert [(g.name, g.size) for g in groups] == [("a.w.channels", 4), ("b.w.channels", 6)]
    assert [s.rows for s in groups[1].producers] == [1]


def test_a_constant_in_a_concatenation_stays(draft):
    net = draft((1, 2, 2, 3))
    zeros = relax.const(np.zeros((1, 2, 2, 2), np.float32))
    h = net.emit(op.concat([zeros, net.conv(net.x, "a", 4)], axis=-1))
    groups, _ = find_groups(net.model(net.linear(net.pooled(h), "head", 2)))
    assert owned(groups, "a.w.channels")[1]["head.w", 1] == [[2], [3], [4], [5]]


def test_squeeze_and_excitation(draft):
    net = draft((2, 4, 4, 3))
    x = net.conv(net.x, "a", 6)
    hidden = net.relu(net.linear(net.pooled(x), "down", 2))
    gate = net.emit(op.reshape(net.linear(hidden, "up", 6), (2, 1, 1, 6)))
    y = net.emit(op.multiply(x, gate))
    groups, _ = find_groups(net.model(net.linear(net.pooled(y), "head", 2)))
    assert [(g.name, g.size) for g in groups] == [("a.w.channels", 6), ("down.w.channels", 2)]
    assert names(groups[0].producers) == ["a.w", "up.w"]
    assert names(groups[0].consumers) == ["down.w", "head.w"]


def test_a_shared_weight_couples_all_its_uses(draft):
    net = draft((1, 4, 4, 3))
    h = net.conv(net.x, "a", 4)
    for _ in range(2):
        h = net.relu(net.conv(h, "again", 4))
    groups, _ = find_groups(net.model(net.linear(net.pooled(h), "head", 2)))
    assert [(g.name, g.size) for g in groups] == [("a.w.channels", 4)]
    assert names(groups[0].producers) == ["a.w", "again.w", "again.w"]


def test_an_embedding(draft):
    net = draft((2, 3))
    ids = net.emit(op.astype(net.x, "int32"))
    h = net.emit(op.take(net.weight("table", 10, 6), ids, axis=0))
    groups, _ = find_groups(net.model(net.linear(h, "head", 2)))
    assert [(g.name, g.size) for g in groups] == [("table.channels", 6)]
    assert {(s.weight, s.axis) for s in groups[0].slices} == {("table", 1), ("head.w", 1)}


def test_a_shuffle_ties_channels_of_its_groups(draft):
    net = draft((1, 4, 4, 3))
    parts = net.emit(op.reshape(net.conv(net.x, "a", 6), (1, 4, 4, 2, 3)))
    h = net.emit(op.reshape(net.emit(op.permute_dims(parts, [0, 1, 2, 4, 3])), (1, 4, 4, 6)))
    groups, _ = find_groups(net.model(net.linear(net.pooled(h), "head", 2)))
    size, weights = owned(groups, "a.w.channels")
    assert (size, weights["a.w", 0]) == (3, [[0, 3], [1, 4], [2, 5]])
    assert weights["head.w", 1] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda x, net: op.nn.softmax(x, axis=-1), "softmax normalises over them"),
        (lambda x, net: op.mean(x, axis=[3], keepdims=True), "mean goes over them"),
        (lambda x, net: op.cumsum(x, axis=3), "cumsum is an operator of which nothing is known"),
        (
            lambda x, net: op.nn.layer_norm(
                x, net.weight("g", 4), net.weight("s", 4), axes=[-1], epsilon=1e-5
            ),
            "layer_norm takes mean and variance over them",
        ),
        (
            lambda x, net: op.matmul(x, net.emit(op.permute_dims(x, [0, 1, 3, 2]))),
            "a product of two activations, or with a weight that is not transposed, reads them",
        ),
        (lambda x, net: op.nn.pad(x, [0, 0, 0, 0, 0, 0, 0, 2]), "they are padded"),
        (
            lambda x, net: op.add(x, relax.const(np.ones(4, np.float32))),
            "a constant of the graph has them",
        ),
        (
            lambda x, net: op.matmul(x, relax.const(np.ones((4, 3), np.float32))),
            "a product of two activations, or with a weight that is not transposed, reads them",
        ),
        (lambda x, net: op.add(x, net.x), "the model's input x gives them"),
        (lambda x, net: op.reshape(x, (8, 8)), "a reshape mixes them with others"),
        (lambda x, net: op.nn.batch_norm(x, *(net.weight(n, 4) for n in "abcd"), 3)[0],
         "nn.batch_norm is an operator of which nothing is known".removeprefix("nn.")),
    ],
)  # fmt: skip
def test_what_is_never_pruned_and_why(draft, step, why):
    net = draft((1, 4, 4, 4))
    y = net.emit(step(net.conv(net.x, "a", 4), net))
    groups, refusals = find_groups(net.model(y if y.ty.ndim < 4 else net.linear(y, "head", 2)))
    assert "a.w.channels" not in {g.name for g in groups}
    assert reason(refusals, "a.w.channels") == why


def test_what_a_kernel_reads_stays(draft):
    net = draft((1, 4, 4, 3))
    h = net.relu(net.conv(net.x, "a", 4))
    kernel = net.bb.add_func(dense([1, 4, 4], 4, 6, 32), "linear")
    packed = net.weight("b.packed", 1, 4, 32)
    y = net.emit(relax.call_tir(kernel, [h, packed], relax.TensorType([1, 4, 4, 6], "float32")))
    groups, refusals = find_groups(net.model(y))
    assert groups == ()
    assert reason(refusals, "a.w.channels") == "call_tir is an operator of which nothing is known"


def test_one_unit_alone_is_no_group(draft):
    net = draft((1, 4, 4, 3))
    groups, refusals = find_groups(
        net.model(net.linear(net.pooled(net.conv(net.x, "a", 1)), "b", 2))
    )
    assert groups == ()
    assert reason(refusals, "a.w.channels") == "all of them stand or fall together"


def test_steps_fill_blocks_of_every_producer(draft):
    net = draft((1, 4, 4, 3))
    a = net.conv(net.conv(net.x, "a", 96), "grouped", 192, groups=48)
    b = net.conv(net.x, "b", 64)
    out = [net.linear(net.pooled(h), n, 2) for h, n in ((a, "c"), (b, "d"))]
    groups, _ = find_groups(net.model(*out))
    target = find("x86-64-v4")
    assert target.block == 32
    assert [(g.name, g.size, g.step(target)) for g in groups] == [
        ("a.w.channels", 48, 16),  # 2 rows of a and 4 of the grouped one
        ("b.w.channels", 64, 32),
    ]


def test_blocks_of_reshapes():
    assert blocks((2, 3, 1, 4), (2, 12)) == [([0], [0]), ([1, 3], [1])]
    assert blocks((6, 4), (8, 3)) == [([0, 1], [0, 1])]
    assert blocks((1, 1), (1,)) == []
