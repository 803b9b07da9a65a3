"""What decisions are said to take in a bundle, against what lowering and coding make of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from codesign.loop.blocks import Block, Decision, blocks_of
from codesign.loop.costs import with_decision
from codesign.loop.offers import Offers, offers_for
from codesign.loop.sizes import Sizes, alone, may_be_smaller, rest_of, stored_bytes
from codesign.prepare import prepare
from passes.codebook import Codebook
from passes.find_sites import find_sites
from passes.formats import DENSE, Solved
from passes.int8 import Int8
from passes.lower import lower
from passes.model import Model
from passes.solve.codebook import cluster
from passes.solve.gptq import quantize_rows
from targets.target import KNOWN

TARGET = KNOWN["znver4"]
PASSES = ("ffn", "heads", "int8", "sparse", "bf16", "codebook", "pattern", "low_rank")


@pytest.fixture(scope="module")
def transformer(encoder: Callable[..., Any]) -> Model:
    return encoder(layers=1, seq=11, width=72, heads=4, hidden=100).model


@pytest.fixture(scope="module")
def network() -> Model:
    torch.manual_seed(1)
    parts = [nn.Conv2d(24, 36, 3, padding=1), nn.ReLU(), nn.Conv2d(36, 40, 3, stride=2)]
    net = nn.Sequential(*parts, nn.ReLU(), nn.Flatten(), nn.Linear(40 * 9, 17))
    return prepare((net.eval(), (torch.randn(2, 24, 8, 8),))).model


def packed(model: Model) -> int:
    """Bytes of all weights as kernels read them."""
    return sum(w.nbytes for w in lower(model, TARGET).weights.values())


def single(block: Block, offers: Offers) -> list[Decision]:
    """One format at one layer, with all units and with the fewest."""
    keeps = [None, offers.keeps[-1]] if len(offers.keeps) > 1 else [None]
    found = [Decision(k, first=f) for k, f in product(keeps, offers.first)]
    if block.second is not None:
        found += [Decision(k, second=f) for k, f in product(keeps, offers.second)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("which", ["transformer", "network"])
def test_shapes_tell_what_lowering_packs(which: str, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(which)
    sections, dense = find_sites(model).layers, packed(model)
    sizes = Sizes(TARGET, dense, rest_of(model, sections), {})
    seen = set()
    for block in (b for section in sections for b in blocks_of(section)):
        offers = offers_for(block, TARGET, PASSES)
        for decision in single(block, offers):
            saved = dense - packed(with_decision(model, block, decision, TARGET))
            told = sizes.of(block, Decision()) - sizes.of(block, decision)
            # factors of low rank are padded to full blocks once more when they are lowered
            slack = 0.0 if "rank" not in decision.family else 0.1 * sizes.of(block, Decision())
            assert told == pytest.approx(saved, abs=slack), decision
            seen.add(decision.family.split()[0])
    assert seen >= {"dense", "fp32", "pruned"}


def test_what_no_decision_changes_is_the_rest(transformer: Model) -> None:
    (layer,) = find_sites(transformer).layers
    assert rest_of(transformer, [layer]) == {layer.name: 4 * 72 * 4}  # of two LayerNorms


def test_codes_count_as_they_are_stored(transformer: Model) -> None:
    (layer,) = find_sites(transformer).layers
    ffn = blocks_of(layer)[1]
    n, k = ffn.first.out_features, ffn.first.in_features
    weight = np.asarray(transformer.weights[ffn.first.weight], np.float32)
    few, int8 = Codebook(16), Int8(1.0, TARGET.block)
    grid, scale = quantize_rows(weight, np.eye(k))
    solved = (Solved(few, cluster(weight, None, 16)), Solved(int8, grid, None, {"scale": scale}))
    stored = {alone(ffn.first, s.format).key: stored_bytes(ffn.first, s, TARGET) for s in solved}
    sizes = Sizes(TARGET, 0.0, {}, stored)
    padded = -(-n // TARGET.block) * TARGET.block
    others = sizes.of(ffn, Decision()) - 4 * padded * k
    for form, most in ((few, 0.5), (int8, 1.02)):
        own = stored[alone(ffn.first, form).key]
        assert 0.2 * padded * k < own < most * padded * k + 8 * padded  # 4 or 8 bits, and scales
        assert sizes.of(ffn, Decision(first=form)) == others + own
    # a third of the neurons, in one of four blocks, code as well as all of them
    keep = TARGET.block
    thin = sizes.of(ffn, Decision(keep, first=few)) - sizes.of(ffn, Decision(keep))
    assert thin == pytest.approx((stored[alone(ffn.first, few).key] - 4 * padded * k) / 4, abs=1)


def test_what_may_be_smaller(transformer: Model) -> None:
    (layer,) = find_sites(transformer).layers
    first = blocks_of(layer)[1].first
    assert may_be_smaller(first, Codebook(256), TARGET)
    assert may_be_smaller(first, Int8(1.0, TARGET.block), TARGET)
    assert not may_be_smaller(first, DENSE, TARGET)
