"""A solved candidate becomes a smaller graph: units cut out, formats put in, layers dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from codesign.loop.blocks import Block, cores_of
from codesign.loop.layer_solver import Index, SolvedBlock, rows_of
from passes import int8_attention, norm
from passes.approximate import approximate
from passes.ffn import prune_ffn
from passes.format_linear import format_linears
from passes.formats import Solved
from passes.heads import prune_heads
from passes.int8_attention import quantize_attention
from passes.layers import drop_layers
from passes.model import Model
from passes.norm import Frozen
from passes.sites import FFN, Attention, Section, encoder_layers
from passes.tokens import keep_tokens
from targets.target import Target


def rewrite_candidate(
    model: Model,
    blocks: Sequence[SolvedBlock],
    dropped: Sequence[Section],
    target: Target,
    layers: Sequence[Section] = (),
    tokens: Mapping[str, int] = MappingProxyType({}),
) -> Model:
    """The canonical model with every solved block in its compact form, and without dropped layers.

    Args:
        model: canonical.
        blocks: none of a dropped layer is among them.
        dropped: the layers to leave out.
        target: gives the packed block.
        layers: all of the model, in order; needed where tokens are merged.
        tokens: how many are left at the input of a layer, by its name.
    """
    if tokens:
        model = keep_tokens(model, encoder_layers(layers), tokens, target)[0]
    for solved in blocks:
        model = rewrite_block(
            model,
            solved.block,
            solved.units,
            solved.first,
            solved.second,
            target,
            solved.decision.core,
            solved.frozen,
        )
    return drop_layers(model, dropped)[0] if dropped else model


def rewrite_block(
    model: Model,
    block: Block,
    units: Index | None,
    first: Solved,
    second: Solved | None,
    target: Target,
    core: str = "",
    frozen: Frozen | None = None,
) -> Model:
    """One block rewritten: its units cut to ``units``, its layers and its core in their formats.

    Args:
        model: canonical; other blocks may be rewritten already.
        block: the site with its dense shapes.
        units: heads or neurons kept; None for all.
        first, second: the layers over the rows and inputs that are kept.
        target: gives the packed block.
        core: the passes that change what lies between or behind the layers.
        frozen: what the norm behind them becomes, where it is frozen.
    """
    if units is not None and second is not None:
        model = _pruned(model, block, units, first, second)
    for name in cores_of(core):
        assert isinstance(block.site, Attention | FFN)
        if name == norm.NAME:
            assert block.site.norm is not None
            assert frozen is not None
            model = norm.freeze_norm(model, block.site.norm, frozen)[0]
        elif name == int8_attention.NAME:
            assert isinstance(block.site, Attention)
            model = quantize_attention(model, block.site)[0]
        else:
            model = approximate(model, block.site)[0]
    layers = [(s, w) for s, w in zip(block.linears, (first, second), strict=False) if w is not None]
    return format_linears(model, layers, target)[0]


def _pruned(model: Model, block: Block, units: Index, first: Solved, second: Solved) -> Model:
    rows = rows_of(block, units)
    wide_first = np.zeros((block.first.out_features, block.first.in_features), np.float32)
    wide_first[rows.first] = first.weight
    assert block.second is not None
    wide_second = np.zeros((block.second.out_features, block.second.in_features), np.float32)
    wide_second[:, rows.second] = second.weight
    weights = {
        block.first.weight: wide_first.reshape(block.first.shape),
        block.second.weight: wide_second.reshape(block.second.shape),
    }
    if isinstance(block.site, Attention):
        return prune_heads(model, block.site, units, weights)[0]
    assert isinstance(block.site, FFN)
    return prune_ffn(model, block.site, units, weights)[0]
