"""Attention with int8 products in a whole graph, against PyTorch in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

from codesign.pipeline import compile_model
from passes.errors import PassError
from passes.heads import prune_heads
from passes.int8_attention import Int8AttentionConfig, choices, quantize_attention
from targets.target import find


def run(model, target, sample):
    lowered, executable = compile_model(model, target)
    vm = relax.VirtualMachine(executable, tvm.cpu())
    inputs = [tvm.runtime.tensor(sample[s.name]) for s in model.inputs]
    weights = [tvm.runtime.tensor(np.ascontiguousarray(w)) for w in lowered.weights.values()]
    return vm["main"](*inputs, *weights)[0].numpy()


def kernels(model):
    return [v.name_hint for v, _ in model.mod.functions_items() if v.name_hint != "main"]


@pytest.mark.parametrize(
    "shape",
    [
        {"seq": 9, "width": 48, "heads": 3, "batch": 2},
        {"seq": 32, "width": 64, "heads": 2},
        {"seq": 3, "width": 24, "heads": 3},
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_output_is_near_the_exact_one(encoder, shape, threads):
    net = encoder(layers=2, hidden=40, **shape)
    model = net.model
    for site in net.sites.attentions:
        model, report = quantize_attention(model, site)
        assert [c.site for c in report.rewrites] == [site.name]
    assert any(name.startswith("int8_attention") for name in kernels(model))
    for seed in range(3):
        sample = net.sample(seed)
        wanted = net.reference(sample)
        got = run(model, find("host", threads=threads), sample)
        keep = sample["attention_mask"] != 0
        error = np.square(got[keep] - wanted[keep]).sum() / np.square(wanted[keep]).sum()
        assert 0 < error < 1e-3


def test_only_the_site_named_is_changed(encoder):
    net = encoder(layers=3, seq=8, width=32, heads=2, hidden=40)
    model, _ = quantize_attention(net.model, net.sites.attentions[1])
    text = str(model.main)
    assert text.count("relax.nn.attention") + text.count("R.nn.attention") == 2
    assert model.weights.keys() == net.model.weights.keys()


def test_pruned_heads_first_then_int8(encoder):
    net = encoder(layers=1, seq=12, width=64, heads=4, hidden=40)
    (site,) = net.sites.attentions
    pruned, _ = prune_heads(net.model, site, [0, 2])
    model, _ = quantize_attention(pruned, site)
    sample, target = net.sample(1), find("host")
    exact, got = run(pruned, target, sample), run(model, target, sample)
    keep = sample["attention_mask"] != 0
    assert np.square(got[keep] - exact[keep]).sum() < 1e-3 * np.square(exact[keep]).sum()


def test_twice_is_refused(encoder):
    net = encoder(layers=1, seq=8, width=32, heads=2, hidden=40)
    (site,) = net.sites.attentions
    model, _ = quantize_attention(net.model, site)
    with pytest.raises(PassError, match="canonical form"):
        quantize_attention(model, site)


def test_choices(encoder):
    (site,) = encoder(layers=1, seq=8, width=32, heads=2, hidden=40).sites.attentions
    vnni, none = find("znver4"), find("x86-64-v3")
    assert not none.has_vnni
    offers, refused = choices(site, none)
    assert offers == []
    assert "VNNI" in refused[0].reason
    assert choices(site, none, Int8AttentionConfig(needs_dot_product=False))[0] == [{}]
    offers, refused = choices(replace(site, plain=False), vnni)
    assert offers == []
    assert refused
