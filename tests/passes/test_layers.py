"""Dropping layers: what follows reads what went in."""

from __future__ import annotations

import numpy as np
import pytest

from passes.errors import PassError
from passes.ffn import prune_ffn
from passes.layers import LayersConfig, choices, drop_layer, drop_layers
from targets.target import find

ODD = {"batch": 2, "seq": 5, "width": 12, "heads": 3, "hidden": 9, "layers": 3}


def error(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("index", [0, 1, 2], ids=["first", "middle", "last"])
def test_one_layer(encoder, execute, index):
    net = encoder(**ODD)
    model, report = drop_layer(net.model, net.sites.layers[index])
    assert not [n for n in model.weights if n.startswith(f"{index}.")]
    assert len(net.model.weights) - len(model.weights) == 12
    assert report.modified
    assert [c.site for c in report.rewrites] == [f"layer{index}"]
    sample = net.sample(1)
    (got,) = execute(model, sample)
    assert error(got, net.reference(sample, dropped=frozenset([index]))) < 1e-5


def test_neighbours_and_all(encoder, execute):
    net = encoder(**ODD)
    sample = net.sample(2)
    model, _ = drop_layers(net.model, net.sites.layers[:2])
    (got,) = execute(model, sample)
    assert error(got, net.reference(sample, dropped=frozenset([0, 1]))) < 1e-5
    empty, _ = drop_layers(net.model, net.sites.layers)
    assert set(empty.weights) == {"words", "norm.w", "norm.b"}
    assert [p.name for p in empty.main.params][:2] == ["ids", "attention_mask"]
    (got,) = execute(empty, sample)
    assert error(got, net.reference(sample, dropped=frozenset(range(3)))) < 1e-5


def test_sites_of_other_layers_stay_valid(encoder, execute):
    net = encoder(**ODD)
    model, _ = prune_ffn(net.model, net.sites.ffns[2], [1, 4])
    model, _ = drop_layer(model, net.sites.layers[1])
    model, _ = prune_ffn(model, net.sites.ffns[0], np.arange(9)[::-1])
    down = np.zeros_like(net.model.weights["2.down.w"])
    down[:, [1, 4]] = net.model.weights["2.down.w"][:, [1, 4]]
    sample = net.sample(3)
    (got,) = execute(model, sample)
    assert error(got, net.reference(sample, {"2.down.w": down}, dropped=frozenset([1]))) < 1e-5


def test_a_layer_that_is_gone(encoder):
    net = encoder(**ODD)
    model, _ = drop_layer(net.model, net.sites.layers[0])
    with pytest.raises(PassError, match="not where it was"):
        drop_layer(model, net.sites.layers[0])


def test_choices(encoder):
    site = encoder(**ODD).sites.layers[0]
    assert choices(site, find("host")) == ([{"drop": True}], [])
    offers, refusals = choices(site, find("host"), LayersConfig(enabled=False))
    assert offers == []
    assert refusals[0].site == "layer0"
