"""Gram matrices of many samples, accumulated on several threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from passes.solve.blas import one_thread
from passes.solve.gram import Gram
from passes.solve.values import merged as merged_values

Rows = NDArray[np.float32]
"""Inputs of a layer for one sample: [tokens, K]."""


@one_thread
def gram_of(
    pool: ThreadPoolExecutor,
    workers: int,
    compressed: Sequence[Rows],
    dense: Sequence[Rows] | None = None,
    *,
    outputs: Sequence[Rows] | None = None,
) -> Gram:
    """The Gram matrices of samples.

    Args:
        compressed: what the layer gets.
        dense: what it gets in the dense model; None if that is the same.
        outputs: instead of ``dense``, what the layer should give, bias excluded.

    Each worker sums its share of the samples with BLAS on one thread, which is faster than BLAS on
    all threads for matrices of this size.
    """

    def share(worker: int) -> Gram:
        c = np.concatenate(compressed[worker::workers])
        gram = Gram(c.shape[-1])
        if outputs is not None:
            return gram.add_outputs(c, np.concatenate(outputs[worker::workers]))
        return gram.add(c, None if dense is None else np.concatenate(dense[worker::workers]))

    parts = list(pool.map(share, range(min(workers, len(compressed)))))
    return merged(parts)


def merged(parts: Sequence[Gram]) -> Gram:
    """The Gram matrices of all rows of ``parts``."""
    total = Gram(parts[0].features)
    total.count = sum(p.count for p in parts)
    total.values = merged_values([p.values for p in parts])
    total.xx = sum((p.xx for p in parts[1:]), start=parts[0].xx)
    total.mean_c = np.sum([p.mean_c * (p.count / total.count) for p in parts], axis=0)
    total.cross, total.mean_d = total.xx, total.mean_c
    if any(p.drifted for p in parts):
        total.cross = sum((p.cross for p in parts[1:]), start=parts[0].cross)
        total.mean_d = np.sum([p.mean_d * (p.count / total.count) for p in parts], axis=0)
    if parts[0].residual is not None:
        residuals = [p.residual for p in parts if p.residual is not None]
        means = [p.mean_r * (p.count / total.count) for p in parts if p.mean_r is not None]
        total.residual = np.sum(residuals, axis=0)
        total.mean_r = np.sum(means, axis=0)
    return total
