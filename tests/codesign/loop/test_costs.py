"""What a decision costs: the kernels of a combination follow from those of its parts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from codesign.fusion import KernelChain
from codesign.loop.blocks import Block, Decision, blocks_of
from codesign.loop.costs import KernelBook, block_kernels, layer_model, placeholder
from codesign.loop.layer_solver import rows_of
from codesign.loop.offers import Offers, offers_for
from codesign.loop.rewrite import rewrite_block
from passes.find_sites import find_sites
from passes.formats import DENSE
from passes.int8 import Int8
from passes.model import Model
from passes.sites import Layer, Linear
from passes.sparse import Sparse
from targets.target import KNOWN

TARGET = KNOWN["znver4"]
SPARSE = Sparse(0.5, 32)
OFFERS = {
    0: Offers((None, 2), (DENSE, Int8(1.0, 32), SPARSE), (DENSE, Int8(0.5, 32)), ()),
    1: Offers((None, 64), (DENSE, Int8(1.0, 32), SPARSE), (DENSE, Int8(0.5, 32)), ()),
}


@pytest.fixture(scope="module")
def model(encoder: Callable[..., Any]) -> Model:
    return encoder(layers=2, seq=16, width=64, heads=4, hidden=96).model


@pytest.fixture(scope="module")
def layer(model: Model) -> Layer:
    return find_sites(model).layers[1]


def lowered(alone: Model, block: Block, decision: Decision) -> Counter[str]:
    """The kernels that a decision really leads to."""
    units = None if decision.keep is None else np.arange(decision.keep)
    rows = rows_of(block, units)
    first = placeholder(block.first, decision.first, len(rows.first), block.first.in_features)
    second = placeholder(block.second, decision.second, block.second.out_features, len(rows.second))
    return KernelBook().count(rewrite_block(alone, block, units, first, second, TARGET), TARGET)


@pytest.mark.parametrize("index", [0, 1], ids=["attention", "ffn"])
def test_kernels_of_a_combination_are_those_really_lowered(
    model: Model, layer: Layer, index: int
) -> None:
    alone, book = layer_model(model, layer), KernelBook()
    block = blocks_of(layer)[index]
    found = block_kernels(alone, block, OFFERS[index], TARGET, book)
    assert found.untouched == book.count(alone, TARGET)
    combined = [
        d for d in OFFERS[index].decisions() if DENSE not in (d.first, d.second)
    ]  # neither was lowered with the other
    for decision in random.Random(0).sample(combined, 3):
        predicted = Counter(found.untouched)
        for kernel, n in found.of(decision).items():
            predicted[kernel] += n
        predicted = Counter({k: n for k, n in predicted.items() if n})
        assert predicted == lowered(alone, block, decision), decision
        assert set(predicted) <= set(book.known)


def test_the_untouched_decision_changes_nothing(model: Model, layer: Layer) -> None:
    alone = layer_model(model, layer)
    offers = Offers((None,), (DENSE,), (DENSE,), ())
    found = block_kernels(alone, blocks_of(layer)[1], offers, TARGET, KernelBook())
    assert not any(found.of(Decision()).values())


def test_a_layer_alone_has_the_kernels_that_it_adds_to_the_model(
    encoder: Callable[..., Any], layer: Layer, model: Model
) -> None:
    book = KernelBook()
    one = encoder(layers=1, seq=16, width=64, heads=4, hidden=96).model
    added = book.count(model, TARGET)
    added.subtract(book.count(one, TARGET))
    assert book.count(layer_model(model, layer), TARGET) == +added


def test_int8_and_pruning_lead_to_kernels_of_their_own(model: Model, layer: Layer) -> None:
    ffn = blocks_of(layer)[1]
    found = block_kernels(layer_model(model, layer), ffn, OFFERS[1], TARGET, KernelBook())
    narrow, int8 = found.of(Decision(64)), found.of(Decision(first=Int8(1.0, 32)))
    assert {n for n in narrow.values() if n} == {1, -1}
    assert sum(narrow.values()) == 0  # other kernels, as many as before
    assert any(int8[k] > 0 for k in int8)
    assert not set(+narrow) & set(+int8)


def test_placeholders_have_the_shape_of_what_will_be_solved() -> None:
    linear = Linear("x", "w", "b", 16, 100, 70)
    solved = placeholder(linear, Int8(0.5, 32), 70, 50)
    assert solved.weight.shape == (70, 50)
    assert solved.bias is not None
    assert solved.bias.shape == (70,)
    assert solved.mask is not None
    assert solved.mask.shape == (3, 13)
    assert (solved.mask.sum(axis=1) == 6).all()
    assert solved.scale is not None
    assert solved.scale.shape == (70,)
    assert placeholder(linear, DENSE, 70, 100).mask is None


def test_offers_start_with_the_untouched_block_and_say_what_is_refused(layer: Layer) -> None:
    for block in blocks_of(layer):
        offers = offers_for(block, TARGET, ("ffn", "heads", "int8", "sparse"))
        assert offers.decisions()[0] == Decision()
        assert len(set(offers.decisions())) == len(offers.decisions())
        assert any(isinstance(f, Int8) for f in offers.first)
        assert all(keep is None or 0 < keep < block.units for keep in offers.keeps)
        assert offers_for(block, TARGET, ()).decisions() == [Decision()]
    old = offers_for(blocks_of(layer)[1], KNOWN["x86-64-v2"], ("int8",))
    assert old.first == (DENSE,)
    assert any("VNNI" in refusal.reason for refusal in old.refusals)


def test_with_fusion_a_layer_is_kernels_and_chains(model: Model, layer: Layer) -> None:
    book, plain = KernelBook(fuse=True), KernelBook()
    alone = layer_model(model, layer)
    found = book.count(alone, TARGET)
    total: Counter[str] = Counter()
    for unit, n in found.items():
        known = book.known[unit]
        if isinstance(known, KernelChain):
            for span in known.default:
                total[known.parts[span].hash] += n
        else:
            total[unit] += n
    assert total == plain.count(alone, TARGET)
    offers = Offers((None,), (DENSE, Int8(1.0, 32)), (DENSE,), (), ("", "norm"))
    kernels = block_kernels(alone, blocks_of(layer)[1], offers, TARGET, book)
    frozen = kernels.of(Decision(core="norm"))
    names = {book.known[k].name: n for k, n in frozen.items() if n}
    assert names["linear+add+add | layer_norm"] == -1
    assert names["linear+add+add+multiply+add"] == 1


def test_norms_are_offered_alone_and_with_other_cores(model: Model, layer: Layer) -> None:
    attention, ffn = blocks_of(layer)
    enabled = ("int8_attention", "norm")
    assert offers_for(attention, TARGET, enabled).core == (
        "", "int8_attention", "norm", "int8_attention+norm",
    )  # fmt: skip
    assert offers_for(ffn, TARGET, enabled).core == ("", "norm")
    bare = replace(ffn, site=replace(ffn.site, norm=None))
    offers = offers_for(bare, TARGET, enabled)
    assert offers.core == ("",)
    assert "no layer norm" in offers.refusals[-1].reason
