"""GELU and softmax replaced by polynomials: their errors, and where they are offered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erf
from tvm import relax

from passes.approximate import ERROR, NAME, ApproximateConfig, approximate, choices
from passes.errors import PassError
from passes.sites import FFN, Linear
from targets.kernels.activation import SHORT_EXP_ERROR
from targets.target import find

TARGET = find("x86-64-v4")
UP, DOWN = Linear("up", "up.w", "up.b", 6, 5, 37), Linear("down", "down.w", "down.b", 6, 37, 5)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return {
        "up.w": rng.standard_normal((37, 5)).astype(np.float32),
        "up.b": rng.standard_normal(37).astype(np.float32),
        "down.w": np.eye(37, dtype=np.float32)[:5],
        "down.b": np.zeros(5, np.float32),
    }


def network(sketch, weights, op):
    def body(s):
        return [s.linear(s.bb.emit(op(s.linear(s.x, "up"))), "down")]

    return sketch((2, 3, 5), weights, body)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_an_ffn_with_the_polynomial(sketch, execute, weights, name):
    model = network(sketch, weights, getattr(relax.op.nn, name))
    ffn = FFN("ffn", UP, DOWN, name)
    assert choices(ffn, TARGET) == ([{}], [])
    written, report = approximate(model, ffn)
    assert [(c.site, c.op) for c in report.rewrites] == [("ffn", NAME)]
    assert "gelu" not in written.mod.script()
    x = np.random.default_rng(1).standard_normal((2, 3, 5)).astype(np.float32)
    (got,) = execute(written, {"x": x})
    wanted = gelu(x.astype(np.float64) @ weights["up.w"].T + weights["up.b"])[..., :5]
    assert 1e-5 < np.abs(got - wanted).max() < ERROR


def test_the_error_holds_for_all_numbers(sketch, execute):
    x = np.concatenate([np.linspace(-12, 12, 4001), [-1e30, 1e30, 0.0]]).astype(np.float32)
    one = {f"{n}.w": np.ones((1, 1), np.float32) for n in ("up", "down")}
    model = sketch(
        (x.size, 1),
        one,
        lambda s: [s.linear(s.bb.emit(relax.op.nn.gelu(s.linear(s.x, "up"))), "down")],
    )
    ffn = FFN(
        "ffn", Linear("up", "up.w", None, 1, 1, 1), Linear("d", "down.w", None, 1, 1, 1), "gelu"
    )
    (got,) = execute(approximate(model, ffn)[0], {"x": x[:, None]})
    wanted = gelu(x.astype(np.float64))
    assert np.abs((got[:, 0] - wanted) / np.maximum(1, np.abs(x))).max() <= ERROR
    assert got[-1, 0] == 0


def test_other_activations_are_refused(sketch, weights):
    ffn = FFN("ffn", UP, DOWN, "relu")
    offers, (refusal,) = choices(ffn, TARGET)
    assert offers == []
    assert "relu is cheap" in refusal.reason
    with pytest.raises(PassError, match="no GELU to replace"):
        approximate(network(sketch, weights, relax.op.nn.relu), ffn)


@pytest.mark.parametrize(
    "shape",
    [
        {"seq": 9, "width": 48, "heads": 3, "batch": 2},
        {"seq": 3, "width": 24, "heads": 3},
        {"seq": 17, "width": 40, "heads": 2},
    ],
)
def test_attention_with_short_exponentials(encoder, execute, shape):
    net = encoder(layers=2, hidden=40, **shape)
    model = net.model
    for site in net.sites.attentions:
        assert choices(site, TARGET) == ([{}], [])
        model, report = approximate(model, site)
        assert [(c.site, c.op) for c in report.rewrites] == [(site.name, NAME)]
    sample = net.sample(3)
    wanted = net.reference(sample)
    (got,) = execute(model, sample)
    keep = sample["attention_mask"] != 0
    error = np.abs(got - wanted)[keep].max() / np.abs(wanted[keep]).max()
    assert 1e-6 < error < 2 * SHORT_EXP_ERROR


def test_attention_that_stays_as_it_is(encoder):
    net = encoder(layers=1, seq=8, width=32, heads=2, hidden=40)
    (site,) = net.sites.attentions
    offers, (refusal,) = choices(replace(site, plain=False), TARGET)
    assert offers == []
    assert "causal" in refusal.reason
    offers, (refusal,) = choices(site, TARGET, ApproximateConfig(softmax=False))
    assert offers == []
    assert "switched off" in refusal.reason
    model, _ = approximate(net.model, site)
    with pytest.raises(PassError, match="canonical form"):
        approximate(model, site)
