"""Solvers for whole sites: the effective dense weights that the rewrites put into compact form.

Each takes the weights of the uncompressed model and the Gram of the inputs that the layer gets in
the compressed one, and solves for, in this order:

1. the target: the weight that best maps compressed inputs to dense outputs (``target_weight``);
2. the structure: greedy OBS on the target, least squares on what is kept;
3. the grid: int8 with error feedback on what is kept;
4. the bias: shifted so that the mean output is that of the dense layer.

A layer with a bias is judged by centred inputs, since the bias takes up any constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from passes.errors import PassError
from passes.formats import Balanced, Format, Parts, Pruned, Solved, Structure
from passes.solve.gram import Array, Gram, check_finite, corrected_bias, target_weight
from passes.solve.obs import prune_path


class Affine(NamedTuple):
    """Weight [N, K] and bias [N] (or None) of a linear layer ``y = x W^T + b``."""

    weight: Array
    bias: Array | None = None


@dataclass(frozen=True)
class SolvedFFN:
    """An FFN solved for a width; shapes are those of the dense FFN.

    Attributes:
        keep: ascending numbers of the neurons kept.
        up: the first layer, rows of removed neurons zero.
        down: the second layer, refitted, columns of removed neurons zero.
    """

    keep: NDArray[np.intp]
    up: Affine
    down: Affine


@dataclass(frozen=True)
class SolvedHeads:
    """Attention solved for a number of heads; shapes are those of the dense attention.

    Attributes:
        keep: ascending numbers of the heads kept.
        qkv: the combined projection, rows of removed heads zero.
        out: the output projection, refitted, columns of removed heads zero.
    """

    keep: NDArray[np.intp]
    qkv: Affine
    out: Affine


def solve_ffn(up: Affine, down: Affine, gram: Gram, keep: int, features: int = 1) -> SolvedFFN:
    """Keep ``keep`` neurons of an FFN; ``gram`` is that of the inputs of the second layer.

    With ``features`` above 1 that many adjacent inputs of the second layer are one neuron: of a
    convolution, the taps of a channel.
    """
    return solve_ffn_widths(up, down, gram, [keep], features)[0]


def solve_ffn_widths(
    up: Affine, down: Affine, gram: Gram, keeps: Sequence[int], features: int = 1
) -> list[SolvedFFN]:
    """``solve_ffn`` for several widths at the price of the smallest."""
    solved = []
    for mask, fitted in _structured(down, gram, keeps, group=features):
        solved.append(SolvedFFN(np.flatnonzero(mask), _rows_kept(up, mask), fitted))
    return solved


def solve_heads(
    qkv: Affine, out: Affine, gram: Gram, heads: int, head_dim: int, keep: int
) -> SolvedHeads:
    """Keep ``keep`` attention heads; ``gram`` is that of the inputs of the output projection.

    Args:
        qkv: rows q, then k, then v, each head-major: [3 * heads * head_dim, C].
        out: [N, heads * head_dim].
        gram: of the merged heads' outputs.
        heads: number of heads.
        head_dim: features of a head.
        keep: heads to keep.
    """
    return solve_head_counts(qkv, out, gram, heads, head_dim, [keep])[0]


def solve_head_counts(
    qkv: Affine, out: Affine, gram: Gram, heads: int, head_dim: int, keeps: Sequence[int]
) -> list[SolvedHeads]:
    """``solve_heads`` for several counts at the price of the smallest."""
    if gram.features != heads * head_dim:
        raise PassError(
            "the Gram matrix does not fit the heads",
            got=f"{gram.features} features",
            allowed=f"{heads} heads of {head_dim}",
        )
    solved = []
    for mask, fitted in _structured(out, gram, keeps, group=head_dim):
        rows = np.tile(np.repeat(mask, head_dim), 3)
        solved.append(SolvedHeads(np.flatnonzero(mask), _rows_kept(qkv, rows), fitted))
    return solved


def solve_linear(layer: Affine, gram: Gram, form: Format) -> Solved:
    """Solve one linear layer for a storage format; ``gram`` is that of its inputs."""
    return solve_formats(layer, gram, [form])[0]


def solve_formats(layer: Affine, gram: Gram, forms: Sequence[Format]) -> list[Solved]:
    """``solve_linear`` for several formats: densities of one group and block share one descent."""
    moments, target = _problem(layer, gram)
    pruned = _pruned(target, moments, [f.structure for f in forms if f.structure is not None])
    solved = []
    for form in forms:
        weight, mask = target.astype(np.float32), None
        if form.structure is not None:
            weight, mask = pruned[form.structure]
        weight, parts = form.represent(weight, mask, moments)
        kept: Parts = {} if mask is None else {"mask": mask}
        solved.append(Solved(form, weight, _bias(layer, weight, gram), {**kept, **parts}))
    return solved


def _pruned(
    target: NDArray[np.float64], moments: Gram, structures: Sequence[Structure]
) -> dict[Structure, Pruned]:
    """The target solved for each structure."""
    balanced = [s for s in structures if isinstance(s, Balanced)]
    found: dict[Structure, Pruned] = {}
    for group, block in {(s.group, s.block) for s in balanced}:
        same = [s for s in balanced if (s.group, s.block) == (group, block)]
        keeps = [s.kept(moments.features) for s in same]
        paths = prune_path(target, moments.xx, keeps, group, block)
        found.update(zip(same, paths, strict=True))
    for structure in structures:
        if structure not in found:
            found[structure] = structure.prune(target, moments.xx)
    return found


def _problem(layer: Affine, gram: Gram) -> tuple[Gram, NDArray[np.float64]]:
    """The moments by which a layer is judged, and the weight to approach."""
    if layer.bias is not None:
        check_finite("bias", layer.bias)
    if gram.features != layer.weight.shape[1]:
        raise PassError(
            "the Gram matrix does not fit the weight",
            got=f"{gram.features} features",
            allowed=f"{layer.weight.shape[1]} inputs",
        )
    if gram.count == 0:
        raise PassError("a layer without calibration data", next="add calibration rows to its Gram")
    moments = gram if layer.bias is None else gram.centred()
    return moments, target_weight(layer.weight, moments)


def _structured(
    layer: Affine, gram: Gram, keeps: Sequence[int], group: int
) -> list[tuple[NDArray[np.bool_], Affine]]:
    """Per count: the mask of groups of inputs that all outputs keep, and the refitted layer."""
    moments, target = _problem(layer, gram)
    return [
        (mask[0], Affine(weight, _bias(layer, weight, gram)))
        for weight, mask in prune_path(target, moments.xx, keeps, group)
    ]


def _bias(layer: Affine, weight: Array, gram: Gram) -> NDArray[np.float32] | None:
    if layer.bias is None:
        return None
    return corrected_bias(layer.bias, layer.weight, weight, gram)


def _rows_kept(layer: Affine, mask: NDArray[np.bool_]) -> Affine:
    """The layer with the rows of removed outputs zero."""
    weight = np.where(mask[:, None], layer.weight, 0).astype(np.float32)
    bias = None if layer.bias is None else np.where(mask, layer.bias, 0).astype(np.float32)
    return Affine(weight, bias)
