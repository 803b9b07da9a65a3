"""A decision becomes choices, and choices become the same decision again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codesign.candidate import Candidate, Choice
from codesign.loop.blocks import (
    DROP,
    Decision,
    block_of,
    blocks_of,
    decision_of,
    dropped,
)
from passes.bf16 import Bf16
from passes.codebook import Codebook
from passes.formats import DENSE
from passes.fp16 import Fp16
from passes.int8 import Int8
from passes.int8_static import Int8Static
from passes.low_rank import LowRank
from passes.sites import FFN, Attention, Layer, Linear, Sites
from passes.sparse import Sparse
from passes.tucker import Tucker
from passes.weight_only import WeightOnly
from targets.target import KNOWN

TARGET = KNOWN["znver4"]


def layer(number: int) -> Layer:
    name = f"layer{number}"
    linears = {
        part: Linear(f"{name}.{part}", f"{part}.w", None, 16, k, n)
        for part, k, n in (
            ("attention.qkv", 64, 192),
            ("attention.out", 64, 64),
            ("ffn.up", 64, 128),
            ("ffn.down", 128, 64),
        )
    }
    qkv, out, up, down = linears.values()
    attention = Attention(f"{name}.attention", qkv, out, 4, 16)
    return Layer(name, attention, FFN(f"{name}.ffn", up, down, "gelu"), "x", "y")


LAYERS = (layer(0), layer(1))
SITES = Sites((), (), (), LAYERS, ())
BLOCKS = [b for one in LAYERS for b in blocks_of(one)]

block = st.just(TARGET.block)
formats = (
    st.just(DENSE)
    | st.sampled_from([Bf16(), Fp16()])
    | st.builds(Int8, density=st.sampled_from([1.0, 0.75, 0.5, 0.25]), block=block)
    | st.builds(Int8Static, density=st.sampled_from([1.0, 0.5]), block=block)
    | st.builds(Sparse, density=st.sampled_from([0.75, 0.5, 0.25]), block=block)
    | st.builds(LowRank, st.sampled_from([32, 64]))
    | st.builds(Tucker, st.sampled_from([16, 32]), st.just(32), st.sampled_from([(3, 3), (3, 1)]))
    | st.builds(WeightOnly, st.sampled_from([4, 8]), st.sampled_from([32, 64]), st.booleans())
    | st.builds(Codebook, st.sampled_from([16, 256]), st.sampled_from([0, TARGET.block]))
)
cores = st.sampled_from(
    ["", "int8_attention", "approximate", "norm", "int8_attention+norm", "approximate+norm"]
)
decisions = st.builds(
    Decision, keep=st.none() | st.integers(1, 3), first=formats, second=formats, core=cores
)


@given(st.lists(decisions, min_size=4, max_size=4))
def test_choices_of_all_blocks_give_the_decisions_back(made: list[Decision]) -> None:
    pairs = list(zip(BLOCKS, made, strict=True))
    candidate = Candidate.of(c for block, d in pairs for c in d.choices(block))
    for block, decision in pairs:
        assert decision_of(candidate, block, TARGET) == decision
    again = Candidate.of(
        c for block in BLOCKS for c in decision_of(candidate, block, TARGET).choices(block)
    )
    assert again.key == candidate.key


@given(decisions, decisions)
def test_different_decisions_are_different_candidates(a: Decision, b: Decision) -> None:
    keys = [Candidate(d.choices(BLOCKS[0])).key for d in (a, b)]
    assert (keys[0] == keys[1]) == (a == b)


def test_the_untouched_block_is_no_choice() -> None:
    assert Decision().choices(BLOCKS[0]) == ()
    assert decision_of(Candidate(), BLOCKS[1], TARGET) == Decision(None, DENSE, DENSE)


def test_blocks_of_a_layer() -> None:
    attention, ffn = blocks_of(LAYERS[1])
    assert (attention.prune, attention.units, attention.rows) == ("heads", 4, 16)
    assert (ffn.prune, ffn.units, ffn.rows, ffn.features) == ("ffn", 128, 1, 1)
    assert attention == block_of(LAYERS[1].attention)
    assert [ffn.first.name, ffn.second.name] == ["layer1.ffn.up", "layer1.ffn.down"]


def test_what_families_have_in_common() -> None:
    int8, half = Int8(1.0, 32), Sparse(0.5, 32)
    assert Decision().family == "dense"
    assert Decision(2).family == "pruned"
    assert Decision(first=int8).family == Decision(second=int8).family
    assert Decision(core="int8_attention+norm").family == "int8_attention norm"
    assert Decision(2, int8, half).family == "pruned fp32 density 0.5 int8"
    assert Decision(first=half).family != Decision(first=Sparse(0.25, 32)).family


def test_dropped_layers_by_name() -> None:
    drop = {"drop": True}
    candidate = Candidate((Choice("layer1", DROP, drop), Choice("layer9", DROP, drop)))
    assert dropped(candidate, SITES) == {"layer1"}
    assert dropped(Candidate(), SITES) == set()
