"""The formats that a linear layer may get: one list, from which offers and candidates are read."""

from __future__ import annotations

from collections.abc import Sequence

from codesign.candidate import Candidate
from passes import int8, pattern, sparse
from passes.formats import DENSE, Format
from passes.int8 import Int8Config
from passes.report import Refusal
from passes.sites import Linear
from passes.sparse import SparseConfig
from targets.target import Target

INT8 = Int8Config(densities=(1.0, 0.75, 0.5, 0.25))
DENSE_INT8 = Int8Config(densities=(1.0,))
SPARSE = SparseConfig(densities=(0.5,))
"""Where int8 exists, float32 sparsity is offered thinly: it rarely wins there."""
SPARSE_CONV = SparseConfig(densities=(0.5, 0.25, 0.125))

PARSERS = (int8, sparse, pattern)
"""The passes that give a layer a format, each with ``NAME`` and ``form(setting, target)``."""


def formats_for(
    linear: Linear, target: Target, enabled: tuple[str, ...]
) -> tuple[list[Format], list[Refusal]]:
    """Formats of one layer, float32 and dense first, and what is refused."""
    offers: list[tuple[Sequence[Format], list[Refusal]]] = []
    if int8.NAME in enabled:
        config = INT8 if sparse.NAME in enabled else DENSE_INT8
        offers.append(int8.choices(linear, target, config))
    if sparse.NAME in enabled:
        thin = SPARSE if linear.window is None else SPARSE_CONV
        offers.append(sparse.choices(linear, target, thin))
    if pattern.NAME in enabled and linear.window is not None:
        offers.append(pattern.choices(linear, target))
    found = [f for forms, _ in offers for f in forms]
    return [DENSE, *found], [r for _, refusals in offers for r in refusals]


def format_of(candidate: Candidate, site: str, target: Target) -> Format:
    """The format that a candidate gives a layer."""
    for choice in candidate:
        for parser in PARSERS:
            if choice.site == site and choice.pass_name == parser.NAME:
                return parser.form(choice.setting, target)
    return DENSE
