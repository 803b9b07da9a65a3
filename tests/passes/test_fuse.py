"""Every partition of every chain computes the same; what is no kernel is refused with its reason."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from codesign.kernels import default_schedules, kernels, schedule
from codesign.pipeline import build
from passes.format_linear import format_linears
from passes.formats import Solved
from passes.fuse import FuseConfig, choices, fusable, fuse, kernels_of
from passes.int8 import Int8
from passes.lower import lower
from passes.solve.gptq import quantize_rows
from targets.kernels.quantize import quantize_reference
from targets.target import Target, find

SIZES = {"batch": 2, "seq": 17, "width": 36, "heads": 3, "hidden": 70, "layers": 1}
"""No tile divides any of them, and codes of 70 inputs are padded."""


@pytest.fixture(scope="module")
def target() -> Target:
    return find("host")


def run(lowered, target, sample):
    machine = relax.VirtualMachine(
        build(schedule(lowered, default_schedules(target)), target), tvm.cpu()
    )
    values = [sample[s.name].astype(s.dtype) for s in lowered.inputs]
    tensors = [tvm.runtime.tensor(v) for v in (*values, *lowered.weights.values())]
    return machine["main"](*tensors)[0].numpy()


def in_int8(net, target):
    """All layers in dynamic int8, and the effective weights."""
    layers, effective = [], {}
    for linear in net.sites.linears:
        weight = net.model.weights[linear.weight]
        grid, scale = quantize_rows(weight, np.eye(weight.shape[1]))
        bias = net.model.weights[linear.bias]
        layers.append((linear, Solved(Int8(1.0, target.block), grid, bias, {"scale": scale})))
        effective[linear.weight] = grid
    return format_linears(net.model, layers, target)[0], effective


def coarsest(chain, target):
    """The partition of the largest parts, from the end."""
    spans, end, parts = choices(chain, target)[0], len(chain.atoms), []
    while end:
        parts.append(min(s for s in spans if s[1] == end))
        end = parts[-1][0]
    return tuple(reversed(parts))


def finest(chain, target):
    """The partition of the smallest parts, from the start."""
    spans, at, parts = choices(chain, target)[0], 0, []
    while at < len(chain.atoms):
        ends = [s for s in spans if s[0] == at and any(t[0] == s[1] for t in spans)]
        parts.append(min(ends or [s for s in spans if s[0] == at and s[1] == len(chain.atoms)]))
        at = parts[-1][1]
    return tuple(parts)


def joined(chain, target):
    """The partition in which what follows a product is one kernel."""
    spans, end = choices(chain, target)[0], len(chain.atoms)
    at = next((start for start, stop in sorted(spans) if stop == end and start <= 1), None)
    return chain.default if at is None else (((0, 1), (1, end)) if at else ((0, end),))


@pytest.mark.parametrize(
    ("int8", "pick"),
    [(True, coarsest), (True, joined), (False, finest)],
    ids=["int8 coarsest", "int8 joined", "float32 finest"],
)
def test_partitions_keep_the_numbers(encoder, target, int8, pick):
    net = encoder(**SIZES)
    model, weights = in_int8(net, target) if int8 else (net.model, {})
    open_ = fusable(model, target)
    partitions = {i: pick(chain, target) for i, chain in enumerate(open_.chains)}
    assert any(p != c.default for p, c in zip(partitions.values(), open_.chains, strict=True))
    got = run(fuse(open_, target, partitions)[0], target, net.sample(3))
    seen = (
        (lambda name, x: quantize_reference(x.astype(np.float32)).dequantized()) if int8 else None
    )
    wanted = net.reference(net.sample(3), weights, **({"seen": seen} if int8 else {}))
    # a code at the edge may fall to the other side in float64
    assert np.abs(got - wanted).max() / np.abs(wanted).max() < (1e-2 if int8 else 1e-5)


def test_default_is_what_relax_fuses(encoder, target):
    net = encoder(**SIZES)
    model, _ = in_int8(net, target)
    wanted = {k.hash: k.count for k in kernels(lower(model, target))}
    open_ = fusable(model, target)
    lowered, report = fuse(open_, target, {})
    assert {k.hash: k.count for k in kernels(lowered)} == wanted
    assert not report.modified


def test_a_norm_that_is_read_twice_is_joined_with_its_quantisation(encoder, target):
    """Codes for the next layer, and the numbers themselves for the residual."""
    model, _ = in_int8(encoder(**SIZES), target)
    open_ = fusable(model, target)
    (number, chain), *_ = [
        (i, c) for i, c in enumerate(open_.chains) if c.name.startswith("take") or len(c.atoms) == 5
    ]
    assert chain.name == "linear_int8+add+add | layer_norm | quantize_rows"
    lowered, report = fuse(open_, target, {number: ((0, 1), (1, 5))})
    names = [k.name for k in kernels(lowered)]
    assert "add_add_layer_norm_quantize_rows" in names
    assert report.rewrites[0].detail == "linear_int8 | add+add+layer_norm+quantize_rows"
    kernel = kernels_of(chain, [(3, 5)], target)[3, 5]
    assert [str(p.dtype) for p in kernel.params][-4:] == ["float32", "uint8", "float32", "int32"]


def test_refusals_have_reasons(encoder, target):
    model, _ = in_int8(encoder(**SIZES), target)
    open_ = fusable(model, target)
    between = {r.site: r.reason for r in open_.refusals}
    assert "no pass over rows" in between["attention | quantize_rows"]
    chain = next(c for c in open_.chains if len(c.atoms) == 5)
    spans, refused = choices(chain, target)
    assert (0, 4) not in spans
    assert (1, 2) not in spans
    reasons = {r.site: r.reason for r in refused}
    assert "no pass over rows" in reasons["linear_int8+add+add+layer_norm"]
    assert "cut once" in reasons["add"]


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (FuseConfig(apart=False), {(0, 3), (3, 4), (4, 5), (3, 5)}),
        (FuseConfig(rows=False), {(0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (3, 4), (4, 5)}),
        (FuseConfig(apart=False, rows=False), {(0, 3), (3, 4), (4, 5)}),
    ],
)
def test_config_limits_what_is_offered(encoder, target, config, kept):
    model, _ = in_int8(encoder(**SIZES), target)
    chain = next(c for c in fusable(model, target).chains if len(c.atoms) == 5)
    assert set(choices(chain, target, config)[0]) == kept


def test_paths_around_a_chain_keep_it_apart(sketch, target):
    """y = norm(x + b), z = norm(y + softmax(y)): softmax reads y, and the sum reads both."""
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(20).astype(np.float32) for n in ("b", "g", "c")}

    def draw(s):
        norm = {"axes": [-1], "epsilon": 1e-5}
        p, op, emit = s.params, relax.op, s.bb.emit
        y = emit(op.nn.layer_norm(emit(op.add(s.x, p["b"])), p["g"], p["c"], **norm))
        z = emit(op.add(y, emit(op.nn.softmax(y, -1))))
        return [emit(op.nn.layer_norm(z, p["g"], p["c"], **norm)), y]

    model = sketch((3, 7, 20), weights, draw)
    open_ = fusable(model, target)
    lowered, _ = fuse(open_, target, {i: coarsest(c, target) for i, c in enumerate(open_.chains)})
    x = rng.standard_normal((3, 7, 20)).astype(np.float32)

    def norm(v):
        v = v - v.mean(-1, keepdims=True)
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-5) * weights["g"] + weights["c"]

    y = norm(x.astype(np.float64) + weights["b"])
    e = np.exp(y - y.max(-1, keepdims=True))
    wanted = norm(y + e / e.sum(-1, keepdims=True))
    np.testing.assert_allclose(run(lowered, target, {"x": x}), wanted, atol=2e-5)
