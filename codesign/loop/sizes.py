"""Bytes that a decision takes in a bundle: what packing makes of its weights, and how well that codes.

What a format packs follows from shapes alone. How well codes and codebooks are entropy-coded
(`codesign.coded`) is measured on the weights that the solver makes for each single decision, with all
units of its block; with fewer units a layer is taken to code as well as with all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from codesign.candidate import Candidate, Choice
from codesign.coded import encode
from codesign.loop.blocks import Block, Decision, blocks_of
from codesign.loop.costs import placeholder
from codesign.loop.layer_solver import rows_of
from codesign.simulate.graph import Dataflow
from passes.codebook import Codebook
from passes.formats import DENSE, Format, Parts, Solved
from passes.lower import PACKED, lowered_weights
from passes.model import Model
from passes.sites import Linear, Section
from targets.target import Target

LEAST = 0.02
"""Share by which a format must be smaller than float32 to count as smaller."""


@dataclass(frozen=True)
class Sizes:
    """What decisions take in bundles of one model for one target, in bytes.

    Attributes:
        target: gives the packed block.
        dense: the bundle of the model as it is.
        rest: what no decision changes of each layer, by its name.
        stored: bytes of a layer's weight in a bundle, by key of the candidate that gives only this
            layer a format; what is not there is stored as it is packed.
    """

    target: Target
    dense: float
    rest: Mapping[str, float]
    stored: Mapping[str, float]

    def of(self, block: Block, decision: Decision) -> float:
        """Bytes of a block's weights and biases."""
        rows = rows_of(block, None if decision.keep is None else np.arange(decision.keep))
        size = self._linear(block.first, decision.first, len(rows.first), block.first.in_features)
        if block.second is not None:
            columns = len(rows.second)
            size += self._linear(block.second, decision.second, block.second.out_features, columns)
        return float(round(size))

    def _linear(self, linear: Linear, form: Format, rows: int, columns: int) -> float:
        size = float(packed_bytes(linear, form, rows, columns, self.target))
        stored = self.stored.get(alone(linear, form).key)
        if stored is not None:
            full = linear.out_features, linear.in_features
            size *= stored / packed_bytes(linear, form, *full, self.target)
        return size + (0 if linear.bias is None else 4 * rows)


def alone(linear: Linear, form: Format) -> Candidate:
    """The candidate that only gives one layer a format."""
    return Candidate((Choice(linear.name, form.name, form.setting),))


def rest_of(model: Model, sections: Sequence[Section]) -> dict[str, float]:
    """Bytes of each section's weights that belong to no layer of its blocks, by name of section."""
    flow = Dataflow(model)
    found: dict[str, float] = {}
    for section in sections:
        linears = [linear for block in blocks_of(section) for linear in block.linears]
        own = {name for linear in linears for name in (linear.weight, linear.bias)}
        read = flow.slice((section.input,), (section.output,)).weights
        found[section.name] = float(
            sum(model.weights[name].nbytes for name in read if name not in own)
        )
    return found


def weight_bytes(model: Model) -> float:
    """Bytes of all weights of a model."""
    return float(sum(weight.nbytes for weight in model.weights.values()))


def stored_bytes(linear: Linear, solved: Solved, target: Target) -> int:
    """Bytes of a solved layer's weight, its bias excluded, in a bundle."""
    arrays, _ = encode(_parts(linear, solved, target))
    return sum(array.nbytes for array in arrays.values())


def may_be_smaller(linear: Linear, form: Format, target: Target) -> bool:
    """Whether a bundle may be smaller with a layer in this format, as far as shapes tell."""
    full = linear.out_features, linear.in_features
    dense = packed_bytes(linear, DENSE, *full, target)
    few = isinstance(form, Codebook)  # of the size of float32 until it is coded
    return few or packed_bytes(linear, form, *full, target) < (1.0 - LEAST) * dense


def packed_bytes(linear: Linear, form: Format, rows: int, columns: int, target: Target) -> int:
    """Bytes that the kernel of a layer of this shape reads as its weight, uncoded."""
    return _packed_bytes(
        replace(linear, name="", weight="", bias=None), form, rows, columns, target
    )


@cache
def _packed_bytes(linear: Linear, form: Format, rows: int, columns: int, target: Target) -> int:
    parts = _parts(linear, placeholder(linear, form, rows, columns), target)
    return sum(part.nbytes for part in parts.values())


def _parts(linear: Linear, solved: Solved, target: Target) -> Parts:
    """The arrays that stand for the weight in a lowered model."""
    if not solved.format.in_place:
        return solved.format.pack(solved, linear, target.block)
    weight = solved.weight
    if linear.window is not None:
        weight = weight.reshape(len(weight), -1, *linear.window.kernel)
    return lowered_weights([PACKED], {"": weight}, target)
