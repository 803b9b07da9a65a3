import pytest

from codesign.candidate import Choice
from codesign.report.grid import choice_grid, natural, place


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("layer0.ffn", ("layer0", "ffn")),
        ("layer11", ("layer11", "layer")),
        ("encoder.layer.3.attention.qkv", ("encoder.layer.3", "attention.qkv")),
        ("h_2_mlp", ("h_2", "mlp")),
        ("classifier", ("model", "classifier")),
    ],
)
def test_sites_are_placed_by_layer(site, expected):
    assert place(site) == expected


def test_rows_are_in_natural_order():
    assert sorted(["layer10", "layer9", "model"], key=natural) == ["layer9", "layer10", "model"]
    grid = choice_grid([Choice(f"layer{i}.ffn", "int8") for i in (10, 2)], ["int8"])
    assert grid.index("layer2") < grid.index("layer10")


def test_a_pass_keeps_its_colour_and_gaps_are_dense():
    grid = choice_grid(
        [Choice("layer0.ffn", "ffn", {"keep": 9}), Choice("layer1.up", "int8")], ["ffn", "int8"]
    )
    assert 'class="chip c0" title="layer0.ffn: ffn' in grid
    assert 'class="chip c1"' in grid
    assert grid.count("dense") == 2
    assert "dense model" in choice_grid([], [])
