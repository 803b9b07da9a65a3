"""The best product of two thin matrices in place of a weight, judged by what its inputs are.

For a weight W [N, K] and inputs of Gram matrix H = L L^T, the rank-r product U V that minimises
``tr((W - U V) H (W - U V)^T) = |(W - U V) L|^2`` is the truncated SVD of W L with L taken off again
(Eckart & Young 1936; DRONE, Chen et al. 2021; SVD-LLM, Wang et al. 2024). No inverse of L is needed:
with the left singular vectors U of W L it is ``U (U^T W)``, the outputs projected on their principal
components; with the right ones V it is ``(W L V) (V^T inv(L))``. Each comes from a symmetric
eigenproblem of the smaller side, and one eigenproblem serves all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, solve_triangular

from passes.errors import PassError
from passes.solve.blas import one_thread
from passes.solve.gram import DAMPING, Array, check_finite, damped


class Factors(NamedTuple):
    """``W = second @ first``: the layer that runs first [r, K], then the other [N, r]."""

    first: NDArray[np.float32]
    second: NDArray[np.float32]

    @property
    def rank(self) -> int:
        return len(self.first)

    @property
    def product(self) -> NDArray[np.float32]:
        """The effective dense weight [N, K]."""
        whole = self.second.astype(np.float64) @ self.first.astype(np.float64)
        return whole.astype(np.float32)


def factorize(W: Array, xx: Array, rank: int, *, damping: float = DAMPING) -> Factors:
    """The factors of one rank; see ``factorize_path``."""
    return factorize_path(W, xx, [rank], damping=damping)[0]


@one_thread
def factorize_path(
    W: Array, xx: Array, ranks: Sequence[int], *, damping: float = DAMPING
) -> list[Factors]:
    """For each rank the factors whose product loses least on inputs of Gram matrix ``xx``.

    Minimises ``tr((W - U V) H (W - U V)^T)`` with H = xx + damping over U [N, r] and V [r, K]; the
    factors of a smaller rank are the first columns and rows of those of a larger one.

    Args:
        W: [N, K] weight.
        xx: [K, K] Gram matrix X^T X of the inputs.
        ranks: each from 1 to min(N, K).
        damping: ridge on the change of the weight, relative to the mean diagonal of xx.

    Raises:
        PassError: shapes that do not fit, a rank out of range, NaN or infinity.
    """
    n, k = W.shape
    check_finite("weight", W)
    if xx.shape != (k, k):
        raise PassError(
            "the Gram matrix does not fit the weight", got=str(xx.shape), allowed=f"({k}, {k})"
        )
    wrong = [r for r in ranks if not 1 <= r <= min(n, k)]
    if wrong:
        raise PassError("a rank out of range", got=str(wrong[0]), allowed=f"1 to {min(n, k)}")
    weight, h = np.asarray(W, dtype=np.float64), damped(xx, damping)
    most = max(ranks, default=1)
    if n <= k:
        second = leading(weight @ h @ weight.T, most)
        first = second.T @ weight
    else:
        lower = cholesky(h, lower=True, check_finite=False)
        turned = weight @ lower
        basis = leading(turned.T @ turned, most)
        second = turned @ basis
        first = solve_triangular(lower, basis, lower=True, trans=1, check_finite=False).T
        # unit columns here as there, so that both factors are of one kind whatever the shape
        length = np.maximum(np.linalg.norm(second, axis=0), np.finfo(np.float64).tiny)
        second, first = second / length, first * length[:, None]
    return [Factors(_plain(first[:r]), _plain(second[:, :r])) for r in ranks]


def leading(moments: Array, count: int) -> NDArray[np.float64]:
    """The ``count`` eigenvectors with the largest eigenvalues of a symmetric matrix, as columns."""
    size = len(moments)
    _, vectors = eigh(moments, subset_by_index=[size - count, size - 1], check_finite=False)
    return np.ascontiguousarray(vectors[:, ::-1])


def _plain(array: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)
