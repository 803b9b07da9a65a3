"""Head pruning removes heads exactly, with or without a bias of their own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from tvm import relax

from passes.errors import PassError
from passes.heads import choices, prune_heads, solved_weights
from passes.sites import Attention, Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_heads
from targets.target import find

ODD = {"batch": 2, "seq": 7, "width": 20, "heads": 4, "hidden": 9, "layers": 2}


def error(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def without_heads(site, weights, keep):
    """The dense weight of the output projection with zeros for removed heads."""
    out = weights[site.out.weight].reshape(-1, site.heads, site.head_dim).copy()
    out[:, [h for h in range(site.heads) if h not in keep]] = 0
    return {site.out.weight: out.reshape(out.shape[0], -1)}


def test_pruned_attention_is_the_dense_one_without_the_columns_of_removed_heads(encoder, execute):
    net = encoder(**ODD)
    site = net.sites.attentions[0]
    pruned, report = prune_heads(net.model, site, [2, 0, 3])
    shapes = [pruned.weights[n].shape for n in (site.qkv.weight, site.qkv.bias, site.out.weight)]
    assert shapes == [(45, 20), (45,), (20, 15)]
    assert [c.detail for c in report.rewrites] == ["3 of 4 heads"]
    sample = net.sample(1)
    (got,) = execute(pruned, sample)
    wanted = net.reference(sample, without_heads(site, net.model.weights, [0, 2, 3]))
    assert error(got, wanted) < 1e-5
    assert error(got, net.reference(sample)) > 1e-3


def test_pruning_twice_and_other_layers(encoder, execute):
    net = encoder(**ODD)
    first, second = net.sites.attentions
    model, _ = prune_heads(net.model, first, [0, 1, 3])
    model, _ = prune_heads(model, first, [2])
    model, _ = prune_heads(model, second, [1])
    sample = net.sample(4)
    gone = without_heads(first, net.model.weights, [3])
    gone |= without_heads(second, net.model.weights, [1])
    (got,) = execute(model, sample)
    assert error(got, net.reference(sample, gone)) < 1e-5


def test_solved_heads_are_written_exactly_and_beat_a_plain_cut(encoder, execute):
    net = encoder(**ODD)
    site, weights = net.sites.attentions[1], net.model.weights
    gram = Gram(20)
    watch = lambda name, x: (gram.add(x) if name == "1.out" else None, x)[1]  # noqa: E731
    for seed in range(30):
        net.reference(net.sample(seed), seen=watch)
    qkv = Affine(weights[site.qkv.weight], weights[site.qkv.bias])
    out = Affine(weights[site.out.weight], weights[site.out.bias])
    solved = solve_heads(qkv, out, gram, site.heads, site.head_dim, 2)
    effective = solved_weights(site, solved)
    refitted, _ = prune_heads(net.model, site, solved.keep, effective)
    cut, _ = prune_heads(net.model, site, solved.keep)
    sample = net.sample(50)
    dense = net.reference(sample)
    (good,), (bad,) = execute(refitted, sample), execute(cut, sample)
    assert error(good, net.reference(sample, effective)) < 1e-5
    assert np.square(good - dense).sum() < np.square(bad - dense).sum()


def test_a_bias_for_each_head_is_cut_too(sketch, execute):
    batch, seq, heads, dim, keep = 2, 5, 3, 4, [2, 0]
    width = heads * dim
    rng = np.random.default_rng(0)
    shapes = {
        "qkv.w": (3 * width, 6),
        "bias": (1, heads, seq, seq),
        "out.w": (6, width),
    }
    w = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}

    def draw(s):
        parts = s.bb.emit(relax.op.split(s.linear(s.x, "qkv"), 3, axis=-1))
        shape = (batch, seq, heads, dim)
        q, k, v = (s.bb.emit(relax.op.reshape(s.bb.emit(parts[i]), shape)) for i in range(3))
        mixed = s.bb.emit(relax.op.nn.attention(q, k, v, s.params["bias"], scale=0.3))
        return [s.linear(s.bb.emit(relax.op.reshape(mixed, (batch, seq, width))), "out")]

    model = sketch((batch, seq, 6), w, draw)
    qkv = Linear("qkv", "qkv.w", None, batch * seq, 6, 3 * width)
    out = Linear("out", "out.w", None, batch * seq, width, 6)
    pruned, _ = prune_heads(model, Attention("attention", qkv, out, heads, dim), keep)
    x = rng.standard_normal((batch, seq, 6)).astype(np.float32)
    q, k, v = (
        t.reshape(batch, seq, heads, dim).transpose(0, 2, 1, 3)
        for t in np.split(x.astype(np.float64) @ w["qkv.w"].T, 3, axis=-1)
    )
    mixed = softmax(0.3 * q @ k.swapaxes(-1, -2) + w["bias"], axis=-1) @ v
    mixed[:, 1] = 0
    wanted = mixed.transpose(0, 2, 1, 3).reshape(batch, seq, width) @ w["out.w"].T
    (got,) = execute(pruned, {"x": x})
    assert error(got, wanted) < 1e-5


@pytest.mark.parametrize("keep", [[], [1, 1], [4], [-1]])
def test_bad_heads_are_refused(encoder, keep):
    net = encoder(**ODD)
    with pytest.raises(PassError, match="cannot keep these heads"):
        prune_heads(net.model, net.sites.attentions[0], keep)


def test_a_graph_of_another_form_is_refused(sketch):
    rng = np.random.default_rng(0)
    w = {"qkv.w": rng.standard_normal((12, 4)), "out.w": rng.standard_normal((4, 4))}
    w = {n: a.astype(np.float32) for n, a in w.items()}

    def draw(s):
        hidden = s.bb.emit(relax.op.nn.relu(s.linear(s.x, "qkv")))
        return [s.linear(s.bb.emit(relax.op.split(hidden, 3, axis=-1))[0], "out")]

    model = sketch((1, 3, 4), w, draw)
    qkv = Linear("qkv", "qkv.w", None, 3, 4, 12)
    site = Attention("attention", qkv, Linear("out", "out.w", None, 3, 4, 4), 2, 2)
    with pytest.raises(PassError, match="not in the canonical form"):
        prune_heads(model, site, [0])


def test_choices_keep_blocks_full(encoder):
    site = encoder(width=64, heads=4).sites.attentions[0]
    offers, refusals = choices(site, find("x86-64-v4"))
    assert offers == [{"heads": 2}]
    assert {r.op for r in refusals} == {"prune_heads 3", "prune_heads 1"}
    assert all("no multiple of the block of 32" in r.reason for r in refusals)
    assert [o["heads"] for o in choices(site, find("x86-64-v3"))[0]] == [3, 2, 1]
