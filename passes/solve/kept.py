"""A linear layer that reads only some of its inputs, refitted to the outputs of the dense one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from passes.solve.blas import one_thread
from passes.solve.gram import DAMPING, Gram, corrected_bias, damped
from passes.solve.site import Affine


@one_thread
def on_kept_inputs(
    layer: Affine, gram: Gram, kept: NDArray[np.intp], damping: float = DAMPING
) -> tuple[Affine, Gram]:
    """The layer over the inputs ``kept`` alone, and the Gram of those inputs.

    Minimises ``|X_c[:, kept] W'^T - Y|^2 + ridge |W' - W[:, kept]|^2`` for the wanted outputs Y (see
    ``Gram.wanted``): what the removed inputs contributed, and what compression before this layer
    changed, is made up for as far as the kept ones can. The Gram returned counts as not drifted,
    since the new layer is the one to keep to.

    Args:
        layer: dense weight [N, K] and bias.
        gram: of all K inputs, compressed and dense.
        kept: ascending numbers of the inputs kept.
    """
    if len(kept) == gram.features and not gram.changed:
        return layer, gram
    moments = gram if layer.bias is None else gram.centred()
    weight = np.asarray(layer.weight, dtype=np.float64)
    h = damped(moments.xx[np.ix_(kept, kept)], damping)
    ridge = np.diag(h) - np.diag(moments.xx)[kept]
    right = moments.wanted(weight)[kept] + ridge[:, None] * weight[:, kept].T
    solved = cho_solve(cho_factor(h, lower=True, check_finite=False), right, check_finite=False).T
    new = np.ascontiguousarray(solved, dtype=np.float32)
    bias = None
    if layer.bias is not None:
        wide = np.zeros(layer.weight.shape, np.float32)
        wide[:, kept] = new
        bias = corrected_bias(layer.bias, layer.weight, wide, gram)
    return Affine(new, bias), _undrifted(gram, kept)


def _undrifted(gram: Gram, kept: NDArray[np.intp]) -> Gram:
    out = Gram(len(kept))
    out.count = gram.count
    out.xx = gram.xx[np.ix_(kept, kept)]
    out.cross = out.xx
    out.mean_c = gram.mean_c[kept]
    out.mean_d = out.mean_c
    return out
