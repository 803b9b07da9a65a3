"""Rounding with error feedback, whatever the weights are rounded to.

GPTQ (Frantar et al. 2023): inputs are rounded one after the other, largest Hessian diagonal first,
and the error of each is spread over those still to come by the Cholesky factor of inv(H). Columns go
in blocks, so that most of the feedback is matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, lapack

Array = NDArray[np.floating]

Feedback: TypeAlias = tuple[NDArray[np.intp], NDArray[np.float64]]
"""The order of the inputs, and the upper U with U^T U = inv(H) in that order."""

Round: TypeAlias = Callable[[int, NDArray[np.float64]], NDArray[np.float64]]
"""What the weights [N] of an input of that number may become, next to what they are."""

DAMPING = 0.01
"""Ridge relative to the mean diagonal of the Gram matrix, as GPTQ's."""

COLUMNS = 128
"""Inputs rounded between two updates of all later ones."""


def feedback_of(h: Array) -> Feedback:
    """The feedback for inputs of a positive definite Gram matrix [K, K]."""
    order = np.argsort(-np.diag(h), kind="stable")
    # H = R R^T with an upper R, from the Cholesky factor of H in reverse; then U = inv(R)
    reverse = order[::-1]
    lower = cholesky(h[np.ix_(reverse, reverse)], lower=True, check_finite=False)
    factor, _ = lapack.dtrtri(np.asfortranarray(lower[::-1, ::-1]), lower=0, overwrite_c=True)
    return order, np.ascontiguousarray(factor)


def fed_back(W: Array, rounded: Round, feedback: Feedback) -> NDArray[np.float64]:
    """W [N, K] rounded input by input, each with what the inputs before it have left to mend."""
    order, upper = feedback
    rest = np.ascontiguousarray(W[:, order].T, dtype=np.float64)
    made = np.empty_like(rest)
    for start in range(0, len(rest), COLUMNS):
        end = min(start + COLUMNS, len(rest))
        errors = np.empty((end - start, rest.shape[1]))
        for i in range(start, end):
            made[i] = rounded(int(order[i]), rest[i])
            error = (rest[i] - made[i]) / upper[i, i]
            rest[i + 1 : end] -= upper[i, i + 1 : end, None] * error
            errors[i - start] = error
        rest[end:] -= upper[start:end, end:].T @ errors
    out = np.empty(W.shape)
    out[:, order] = made.T
    return out
