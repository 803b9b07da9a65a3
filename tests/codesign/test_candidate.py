import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.candidate import Candidate, Choice

INT8 = Choice("layer0.ffn", "int8")
FFN = Choice("layer0.ffn", "ffn", {"keep": 1152})


@given(st.permutations([INT8, FFN, Choice("layer1.ffn", "sparse", {"density": 0.5, "bits": 8})]))
def test_the_key_does_not_depend_on_the_order_of_choices(choices):
    candidate = Candidate.of(choices)
    assert candidate.key == Candidate(tuple(reversed(choices))).key
    assert [c.site for c in candidate] == ["layer0.ffn", "layer0.ffn", "layer1.ffn"]


def test_the_key_is_stable_across_versions():
    # records are found by it: a change here orphans what users have measured
    assert Candidate().key == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"


def test_the_key_sees_every_part():
    keys = {
        Candidate((choice,)).key
        for choice in (
            FFN,
            Choice("layer1.ffn", "ffn", {"keep": 1152}),
            Choice("layer0.ffn", "int8", {"keep": 1152}),
            Choice("layer0.ffn", "ffn", {"keep": 768}),
        )
    }
    assert len(keys) == 4


def test_one_pass_twice_at_one_site_is_refused():
    with pytest.raises(ValueError, match=r"ffn at layer0\.ffn"):
        Candidate((FFN, Choice("layer0.ffn", "ffn", {"keep": 768})))


def test_label_groups_equal_choices():
    choices = [Choice(f"layer{i}.ffn", "prune_ffn", {"keep": 1152}) for i in range(4)]
    choices += [Choice(f"linear{i}", "int8") for i in range(6)]
    assert Candidate.of(choices).label({"int8": 6}) == "int8 all, ffn 1152 x4"
    assert Candidate().label() == "dense"


def test_label_says_how_much_it_leaves_out():
    candidate = Candidate.of(Choice(f"s{i}", "ffn", {"keep": i}) for i in range(9))
    assert candidate.label(limit=2).endswith("+7 more")


def test_label_begins_with_what_is_done_to_the_whole_model():
    whole = Choice("model", "channels", {"share": 0.5, "widths": {"stem.channels": 32}})
    choices = [whole, *(Choice(f"s{i}", "ffn", {"keep": i}) for i in range(9))]
    assert Candidate.of(choices).label(limit=2) == "channels 0.5, ffn 0 x1, +8 more"
    assert Candidate((whole,)).label() == "channels 0.5"


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (Choice("s", "sparse", {"density": 0.5}), "sparse 0.5"),
        (Choice("s", "format", {"bits": 8, "density": 0.25}), "format int8 density=0.25"),
        (Choice("s", "drop_layer"), "layer"),
        (Choice("s", "heads", {"kept": [0, 3]}), "heads [2]"),
    ],
)
def test_describe_reads_well(choice, text):
    assert choice.describe() == text


@pytest.mark.parametrize(
    ("site", "place"),
    [("layer0.attention.qkv", "qkv"), ("layer0.ffn", ""), ("layer3", ""), ("head.weight", "")],
)
def test_place_in_the_block(site, place):
    assert Choice(site, "int8").place == place
