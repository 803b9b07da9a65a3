"""A layer norm becomes the affine map that is closest to it: solved, written, found, refused."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.pipeline import canonical
from passes.errors import PassError
from passes.find_sites import find_sites
from passes.norm import Frozen, NormConfig, choices, fitted, freeze_norm, normalised
from targets.target import find

TARGET = find("host")


def data(rows=40, channels=23):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, channels)) * rng.uniform(0.5, 2, channels) + rng.standard_normal(
        channels
    )
    return x, rng.uniform(0.5, 1.5, channels), rng.standard_normal(channels)


def test_fit_is_the_least_squares_solution():
    x, gain, shift = data()
    frozen = fitted([x[:15], x[15:]], gain, shift, 1e-5)
    y = normalised(x, gain, shift, 1e-5)
    left = 0.0
    for c in range(x.shape[1]):
        design = np.stack([x[:, c], np.ones(len(x))], 1)
        (scale, moved), residual, *_ = np.linalg.lstsq(design, y[:, c], rcond=None)
        assert (frozen.scale[c], frozen.shift[c]) == pytest.approx((scale, moved))
        left += residual[0]
    assert frozen.error == pytest.approx(left / np.square(y - y.mean(0)).sum())
    assert 0 < frozen.error < 0.5


def test_frozen_statistics_are_no_better():
    """MobileBERT's form, with the mean statistics of all rows, is one of the maps to choose from."""
    x, gain, shift = data()
    y = normalised(x, gain, shift, 1e-5)
    mean = x.mean(-1).mean()
    rstd = (1 / np.sqrt(x.var(-1) + 1e-5)).mean()
    plain = np.square((x - mean) * rstd * gain + shift - y).sum()
    frozen = fitted([x], gain, shift, 1e-5)
    best = np.square(x * frozen.scale + frozen.shift - y).sum()
    assert best < plain


def test_rows_of_equal_statistics_lose_nothing():
    """Permutations of one row all have the same mean and variance."""
    rng = np.random.default_rng(1)
    row = rng.standard_normal(31)
    x = np.stack([rng.permutation(row) for _ in range(50)])
    frozen = fitted([x], np.ones(31), np.zeros(31), 1e-5)
    assert frozen.error < 1e-20
    constant = fitted([np.ones((5, 3))], np.ones(3), np.arange(3.0), 1e-5)
    assert constant == Frozen((0.0, 0.0, 0.0), (0.0, 1.0, 2.0), 0.0)


def test_written_graph_computes_the_affine_map(encoder, execute):
    net = encoder(layers=1, batch=2, seq=7, width=36, heads=3, hidden=20)
    norm = find_sites(net.model).layers[0].ffn.norm
    assert norm.name == "layer0.ffn.norm"
    assert (norm.weight, norm.bias, norm.channels) == ("0.norm2.w", "0.norm2.b", 36)
    rng = np.random.default_rng(0)
    frozen = Frozen(tuple(rng.uniform(0.5, 2, 36)), tuple(rng.standard_normal(36)))
    written, report = freeze_norm(net.model, norm, frozen)
    assert report.modified
    assert "0.norm2.w" not in written.weights
    # with unit gain and no shift, the norm's own input follows from what it made
    sample = net.sample(1)
    plain = net.reference(sample, {"0.norm2.w": np.ones(36), "0.norm2.b": np.zeros(36)})
    (got,) = execute(written, sample)
    x = (got - np.array(frozen.shift)) / np.array(frozen.scale)
    np.testing.assert_allclose(
        normalised(x.astype(np.float64), np.ones(36), np.zeros(36), norm.epsilon), plain, atol=1e-4
    )


def test_what_is_not_there_cannot_be_frozen(encoder):
    net = encoder(layers=1)
    norm = find_sites(net.model).layers[0].attention.norm
    frozen = Frozen((1.0,) * norm.channels, (0.0,) * norm.channels)
    once, _ = freeze_norm(net.model, norm, frozen)
    with pytest.raises(
        PassError, match=r"(?s)layer0.attention.norm cannot be frozen.*no such layer norm"
    ):
        freeze_norm(once, norm, frozen)
    with pytest.raises(PassError, match="3"):
        freeze_norm(net.model, norm, Frozen((1.0,) * 3, (0.0,) * 3))


def test_what_follows_the_last_layer_is_not_decided_in_it(foreign_example):
    """A pre-norm encoder ends with a norm behind its layers: no simulated layer has it."""
    sites = find_sites(canonical(foreign_example("vit").model))
    assert [part.norm for layer in sites.layers for part in layer.parts] == [None] * 4
    after = find_sites(canonical(foreign_example("bert").model))
    assert all(part.norm is not None for layer in after.layers for part in layer.parts)


def test_choices_and_refusals(encoder, sketch):
    sites = find_sites(encoder(layers=2).model)
    assert choices(sites.ffns[0], TARGET) == ([{}], [])
    assert choices(sites.attentions[1], TARGET)[0] == [{}]
    off, (refusal,) = choices(sites.ffns[0], TARGET, NormConfig(enabled=False))
    assert off == []
    assert "switched off" in refusal.reason

    rng = np.random.default_rng(0)
    shapes = {"a.w": (8, 6), "b.w": (6, 8)}
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    from tvm import relax

    def draw(s):
        up = s.bb.emit(relax.op.nn.relu(s.linear(s.x, "a")))
        return [s.linear(up, "b")]

    (alone,) = find_sites(sketch((5, 6), weights, draw)).ffns
    assert alone.norm is None
    refused = choices(alone, TARGET)[1]
    assert refused[0].reason == "no layer norm in its section alone reads its sum with the residual"
