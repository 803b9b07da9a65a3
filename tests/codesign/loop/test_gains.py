"""Formats that do not gain at full width are refused with what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from codesign.loop.blocks import blocks_of
from codesign.loop.gains import at_full_width, gained_before, gainful
from codesign.loop.offers import Offers, all_offers
from codesign.loop.tables import space_of
from passes import int8_attention
from passes.find_sites import find_sites
from passes.formats import DENSE
from passes.int8 import Int8
from passes.low_rank import LowRank
from passes.sparse import Sparse
from targets.target import KNOWN

TARGET = KNOWN["znver4"]
PASSES = ("ffn", "heads", "int8", "int8_attention", "sparse")


@pytest.mark.parametrize("slow", ["linear_sparse", "linear_int8", "int8_attention"])
def test_what_is_slow_at_full_width_is_refused(encoder: Callable[..., Any], slow: str) -> None:
    model = encoder(layers=1, seq=16, width=64, heads=4, hidden=96).model
    sites = find_sites(model)
    offers = all_offers(sites.layers, TARGET, PASSES)
    full = space_of(model, sites, TARGET, PASSES, at_full_width(offers))
    assert all(o.keeps == (None,) for o in full.offers.values())

    def seconds(counts: Mapping[str, int]) -> float:
        return (
            sum(n * _microseconds(full.book.known[k].name, slow) for k, n in counts.items()) / 1e6
        )

    left = gainful(offers, full, seconds)
    attention, ffn = (left[b.name] for b in blocks_of(sites.layers[0]))
    assert attention.keeps == offers[sites.layers[0].parts[0].name].keeps
    kinds = {type(f) for f in (*ffn.first, *ffn.second, *attention.first) if f != DENSE}
    assert kinds == ({Int8} if slow == "linear_sparse" else {Int8, Sparse})
    dense = [f for f in ffn.first if isinstance(f, Int8) and f.structure is None]
    assert bool(dense) == (slow != "linear_int8")
    assert attention.core == (("",) if slow == "int8_attention" else ("", int8_attention.NAME))
    (refusal, *_) = [r for r in (*attention.refusals, *ffn.refusals) if "measured" in r.reason]
    assert "us with what is around it" in refusal.reason


def _microseconds(kernel: str, slow: str) -> float:
    """Made up: float32 products take 100, int8 and sparse ones 10, but 1000 where they are slow."""
    if kernel.startswith(slow) and not (slow == "linear_sparse" and "int8" in kernel):
        return 1000
    return (
        100
        if kernel.split("_")[0] in ("linear", "attention")
        and not any(word in kernel for word in ("int8", "sparse"))
        else 10
    )


def test_a_narrower_form_is_offered_the_kinds_that_gained() -> None:
    """Its own widths and ranks; units of a block stay, for channels went everywhere already."""
    int8, half, quarter = Int8(1.0, 32), Sparse(0.5, 32), Sparse(0.25, 32)
    before = Offers((None, 64), (DENSE, int8, half), (DENSE, LowRank(32)), (), ("", "approximate"))
    now = Offers(
        (None, 32),
        (DENSE, int8, half, quarter, LowRank(16)),
        (DENSE, int8, LowRank(16), LowRank(8)),
        (),
        ("", "approximate"),
    )
    (left,) = gained_before({"block0": now}, {"block0": before}).values()
    assert left.keeps == (None,)
    assert left.first == (DENSE, int8, half)
    assert left.second == (DENSE, LowRank(16), LowRank(8))
    assert left.core == ("", "approximate")
