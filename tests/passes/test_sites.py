"""The same sites in the same model, whoever exported it, and in other encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from passes.combine_qkv import combine_qkv
from passes.find_sites import find_sites
from passes.normalize import normalize
from passes.sites import Sites

ROLES = ["attention.qkv", "attention.out", "ffn.up", "ffn.down"]


@pytest.fixture(scope="module")
def sites_of(foreign_example: Callable) -> Callable[[str], Sites]:
    return lambda name: find_sites(combine_qkv(normalize(foreign_example(name).model)))


def shape_of_sites(sites: Sites) -> tuple:
    """Everything but the names of weights and variables."""
    return (
        [(s.name, s.rows, s.in_features, s.out_features, s.bias is None) for s in sites.linears],
        [(s.name, s.heads, s.head_dim) for s in sites.attentions],
        [(s.name, s.activation) for s in sites.ffns],
        [s.name for s in sites.layers],
        [(s.vocab, s.dim) for s in sites.embeddings],
    )


@pytest.mark.parametrize("other", ["bert sdpa", "bert (onnx)", "bert sdpa (onnx)"])
def test_every_export_of_bert_has_the_same_sites(sites_of: Callable, other: str) -> None:
    assert shape_of_sites(sites_of(other)) == shape_of_sites(sites_of("bert"))


@pytest.mark.parametrize(
    ("name", "heads", "activation", "tables"),
    [
        ("bert", 4, "gelu", [(61, 48)]),
        ("distilbert", 4, "gelu", [(61, 48)]),
        ("vit", 3, "gelu", []),
        ("vit (onnx)", 3, "gelu", []),
        ("encoder post", 4, "relu", []),
        ("encoder pre", 4, "relu", []),
        ("encoder pre (onnx)", 4, "relu", []),
        ("encoder sequence first", 4, "relu", []),
    ],
)
def test_all_sites_of_an_encoder_of_two_layers_are_found(
    sites_of: Callable, name: str, heads: int, activation: str, tables: list
) -> None:
    linears, attentions, ffns, layers, embeddings = shape_of_sites(sites_of(name))
    if name.startswith("vit"):  # its patches of 4 x 4 go through a linear layer
        assert linears.pop(0)[1:] == (2 * 16, 3 * 4 * 4, 48, False)
    assert [s[0] for s in linears] == [f"layer{i}.{r}" for i in range(2) for r in ROLES]
    assert [s[1:4] for s in linears] == [
        (34, 48, 144),
        (34, 48, 48),
        (34, 48, 80),
        (34, 80, 48),
    ] * 2
    assert attentions == [(f"layer{i}.attention", heads, 48 // heads) for i in range(2)]
    assert ffns == [(f"layer{i}.ffn", activation) for i in range(2)]
    assert layers == ["layer0", "layer1"]
    assert embeddings == tables


@pytest.mark.parametrize("name", ["bert", "vit", "encoder post", "encoder pre"])
def test_layers_form_a_chain_of_variables(
    foreign_example: Callable, sites_of: Callable, name: str
) -> None:
    model = combine_qkv(normalize(foreign_example(name).model))
    first, second = sites_of(name).layers
    assert first.output == second.input
    bound = [b.var.name for block in model.main.body.blocks for b in block.bindings]
    known = [*bound, *(s.name for s in model.inputs)]
    assert {first.input, first.output, second.output} <= set(known)


def test_sites_of_a_hand_made_graph_are_those_it_was_made_of(encoder: Callable) -> None:
    made = encoder(layers=2, batch=2, seq=7, width=24, heads=3, hidden=40)
    found = find_sites(made.model)
    names = {site.weight: site.name for site in made.sites.linears}
    assert tuple(replace(s, name=names[s.weight]) for s in found.linears) == made.sites.linears
    for got, wanted in zip(found.layers, made.sites.layers, strict=True):
        assert (got.name, got.input, got.output) == (wanted.name, wanted.input, wanted.output)
        assert got.attention.qkv.weight == wanted.attention.qkv.weight
        assert (got.attention.heads, got.attention.head_dim) == (3, 8)
        assert (got.ffn.up.weight, got.ffn.activation) == (wanted.ffn.up.weight, "gelu")
    assert [(e.weight, e.vocab, e.dim) for e in found.embeddings] == [("words", 50, 24)]


def test_names_do_not_matter(encoder: Callable) -> None:
    made = encoder(layers=1)
    sites = find_sites(made.model)
    assert [s.name for s in sites.linears] == [f"layer0.{r}" for r in ROLES]
    assert [s.weight for s in sites.linears] == ["0.qkv.w", "0.out.w", "0.up.w", "0.down.w"]


def test_a_linear_outside_of_a_layer_is_still_a_site(foreign_example: Callable) -> None:
    import torch

    from codesign.frontend.torch_export import from_module

    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5)).eval()
    sites = find_sites(normalize(from_module(module, (torch.randn(3, 6),), "m", {}).model))
    (only,) = sites.linears
    assert (only.name, only.weight, only.bias) == ("block0.linear0", "0.weight", "0.bias")
    assert (only.rows, only.in_features, only.out_features) == (3, 6, 5)
    assert not sites.ffns
    assert [s.parts for s in sites.layers] == [(only,)]


def test_hidden_neurons_that_are_read_elsewhere_do_not_make_an_ffn() -> None:
    import torch

    from codesign.frontend.torch_export import from_module

    class Leaky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = torch.nn.Linear(6, 10), torch.nn.Linear(10, 6)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = torch.relu(self.up(x))
            return self.down(hidden), hidden

    model = normalize(from_module(Leaky().eval(), (torch.randn(3, 6),), "m", {}).model)
    sites = find_sites(model)
    assert len(sites.linears) == 2
    assert not sites.ffns
