"""The formats that a linear layer may get: one list, from which offers and candidates are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from codesign.candidate import Candidate
from passes import (
    bf16,
    codebook,
    fp16,
    int8,
    int8_static,
    low_rank,
    n_m,
    pattern,
    sparse,
    tucker,
    weight_only,
)
from passes.codebook import CodebookConfig
from passes.formats import DENSE, Format
from passes.int8 import Int8Config
from passes.int8_static import Int8StaticConfig
from passes.pattern import CONNECTIVITY, PatternConfig
from passes.report import Refusal
from passes.sites import Linear
from passes.sparse import SparseConfig
from targets.target import Target

Choices: TypeAlias = Callable[[Linear, Target, Any], tuple[Sequence[Format], list[Refusal]]]

INT8 = Int8Config(densities=(1.0, 0.75, 0.5, 0.25))
DENSE_INT8 = Int8Config(densities=(1.0,))
STATIC = Int8StaticConfig(int8=Int8Config(densities=(1.0, 0.5)))
DENSE_STATIC = Int8StaticConfig(int8=DENSE_INT8)
SPARSE = SparseConfig(densities=(0.5,))
"""Where int8 exists, float32 sparsity is offered thinly: it rarely wins there."""
SPARSE_CONV = SparseConfig(densities=(0.5, 0.25, 0.125))
PATTERN = PatternConfig(shares=(1.0, 1 / CONNECTIVITY), parts=(1, 4))
"""Each pattern offer costs the solver more than all others together."""
CODEBOOK = CodebookConfig(values=(256, 64, 16))
STATIC_PATTERNS = (1.0,)
"""Shares of the channels that int8 convolutions with patterns keep."""

PARSERS = (
    codebook, bf16, fp16, int8, int8_static, sparse, pattern, low_rank, tucker, weight_only,
)  # fmt: skip
"""The passes that give a layer a format, each with ``NAME`` and ``form(setting, target)``."""


def formats_for(
    linear: Linear, target: Target, enabled: tuple[str, ...]
) -> tuple[list[Format], list[Refusal]]:
    """Formats of one layer, float32 and dense first, and what is refused."""
    conv, sparsely = linear.window is not None, sparse.NAME in enabled
    static = STATIC if sparsely else DENSE_STATIC
    if conv and pattern.NAME in enabled:
        static = replace(static, patterns=STATIC_PATTERNS)
    offers: list[tuple[str, Choices, Any]] = [
        (bf16.NAME, bf16.choices, None),
        (fp16.NAME, fp16.choices, None),
        (int8.NAME, int8.choices, INT8 if sparsely else DENSE_INT8),
        (int8_static.NAME, int8_static.choices, static),
        (sparse.NAME, sparse.choices, SPARSE_CONV if conv else SPARSE),
        (sparse.NAME, n_m.choices, None),
        (codebook.NAME, codebook.choices, CODEBOOK),
    ]
    # what has no meaning for a kind of layer is not even refused there
    if conv:
        offers += [(pattern.NAME, pattern.choices, PATTERN), (tucker.NAME, tucker.choices, None)]
    else:
        offers += [
            (low_rank.NAME, low_rank.choices, None),
            (weight_only.NAME, weight_only.choices, None),
        ]
    found: list[Format] = [DENSE]
    refusals: list[Refusal] = []
    for name, choices, config in offers:
        if name in enabled:
            forms, refused = choices(linear, target, config)
            found += forms
            refusals += refused
    return found, refusals


def format_of(candidate: Candidate, site: str, target: Target) -> Format:
    """The format that a candidate gives a layer."""
    for choice in candidate:
        for parser in PARSERS:
            if choice.site == site and choice.pass_name == parser.NAME:
                return parser.form(choice.setting, target)
    return DENSE
