"""A linear layer that reads only some of its inputs, refitted to the outputs of the dense one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passes.solve.gram import DAMPING, Gram, corrected_bias, damped, target_weight
from passes.solve.obs import refit
from passes.solve.site import Affine


def on_kept_inputs(
    layer: Affine, gram: Gram, kept: NDArray[np.intp], damping: float = DAMPING
) -> tuple[Affine, Gram]:
    """The layer over the inputs ``kept`` alone, and the Gram of those inputs.

    The weight is that of ``solve_ffn`` and ``solve_heads`` for the same inputs: the target weight on all
    inputs, then least squares on the kept ones. What the removed inputs contributed, and what
    compression before this layer changed, is made up for as far as the kept ones can. The Gram
    returned counts as not drifted, since the new layer is the one to keep to.

    Args:
        layer: dense weight [N, K] and bias.
        gram: of all K inputs, compressed and dense.
        kept: distinct numbers of the inputs kept; the new layer reads them in this order.
        damping: ridge of the least squares, relative to the mean diagonal.
    """
    if len(kept) == gram.features and not gram.changed:
        return layer, gram
    moments = gram if layer.bias is None else gram.centred()
    target = target_weight(layer.weight, moments)
    mask = np.zeros((1, gram.features), dtype=bool)
    mask[0, kept] = True
    wide = refit(target, damped(moments.xx, damping), mask, 1, len(target))
    bias = None
    if layer.bias is not None:
        bias = corrected_bias(layer.bias, layer.weight, wide, gram)
    return Affine(np.ascontiguousarray(wide[:, kept]), bias), _undrifted(gram, kept)


def _undrifted(gram: Gram, kept: NDArray[np.intp]) -> Gram:
    out = Gram(len(kept))
    out.count, out.values = gram.count, gram.values.of(kept)
    out.xx = gram.xx[np.ix_(kept, kept)]
    out.cross = out.xx
    out.mean_c = gram.mean_c[kept]
    out.mean_d = out.mean_c
    return out
