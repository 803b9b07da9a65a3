"""Weights of few values: clustered by what each weight does to the outputs, then rounded with feedback.

Deep Compression (Han et al. 2016) clusters the weights of a layer; here each counts by the energy of
its input, the diagonal of the Gram matrix (Choi et al. 2017). Which of the values a weight takes is
then decided input by input with GPTQ's feedback (Frantar et al. 2023). Zero is always a value: what
is removed or padded stays exactly that, and where codes are entropy-coded it costs next to nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from passes.errors import PassError
from passes.solve.blas import one_thread
from passes.solve.feedback import DAMPING, Round, fed_back, feedback_of
from passes.solve.gram import Array, check_finite, damped, squared_error

Floats = NDArray[np.float64]

ROUNDS = 60
"""Rounds of k-means; it ends earlier if nothing moves any more."""

POINTS = 1024
"""Points that stand for the weights in the exact search for first centres."""

MOST = 256
"""Values of one codebook: one byte says which."""


@one_thread
def cluster(
    W: Array, xx: Array | None, count: int, block: int | None = None, *, damping: float = DAMPING
) -> NDArray[np.float32]:
    """A weight [N, K] of at most ``count`` different values, one of them zero, in every block of rows.

    Args:
        W: [N, K].
        xx: [K, K] Gram matrix of the inputs; None takes all inputs as alike and unrelated, so that
            the nearest values are the best.
        count: values, 2 to 256.
        block: output rows that share a codebook; None is all.
        damping: ridge relative to the mean diagonal of xx.

    Returns:
        float32 [N, K]; ``|X (W - W')|^2`` is for every row at most that of the nearest values.

    Raises:
        PassError: NaN or infinity, shapes that do not fit, or a count out of range.
    """
    n, k = W.shape
    check_finite("weight", W)
    if xx is not None and xx.shape != (k, k):
        raise PassError(
            "the Gram matrix does not fit the weight", got=str(xx.shape), allowed=f"({k}, {k})"
        )
    if not 2 <= count <= MOST:
        raise PassError("values of a codebook", got=str(count), allowed=f"2 to {MOST}")
    weight, made = np.asarray(W, dtype=np.float64), np.empty((n, k), np.float32)
    h = None if xx is None else damped(xx, damping)
    importance = np.ones(k) if h is None else np.diag(h)
    feedback = None if h is None else feedback_of(h)
    for start in range(0, n, block or n):
        part = weight[start : start + (block or n)]
        values = codebook(part, importance, count).astype(np.float64)
        chosen = _nearest(values)(0, part)
        if xx is not None and feedback is not None:
            mended = fed_back(part, _nearest(values), feedback)
            errors = [squared_error(w - part, xx) for w in (chosen, mended)]
            chosen = np.where((errors[1] < errors[0])[:, None], mended, chosen)
        made[start : start + len(part)] = chosen
    return made


def _nearest(values: NDArray[np.float64]) -> Round:
    """Rounding to the nearest of ascending values, the same for all inputs."""
    middles = (values[1:] + values[:-1]) / 2
    return lambda _, weights: values[np.searchsorted(middles, weights)]


def codebook(W: Array, importance: Array, count: int) -> NDArray[np.float32]:
    """The values that lie next to the weights: weighted k-means in one dimension with zero held.

    The first centres are the optimum for ``POINTS`` points that stand for all weights (Wang & Song
    2011), which random starts rarely find; rounds over all weights follow.

    Args:
        W: [N, K].
        importance: [K], positive weights of the columns.
        count: values at most.

    Returns:
        Distinct float32 values, ascending, zero among them.
    """
    order = np.argsort(W, axis=None, kind="stable")
    values = W.ravel()[order].astype(np.float64)
    share = np.broadcast_to(importance / importance.mean(), W.shape).ravel()[order]
    mass = np.concatenate([[0.0], np.cumsum(share)])
    moment = np.concatenate([[0.0], np.cumsum(share * values)])
    points = _points(values, mass, moment)
    best, found = np.inf, np.zeros(1)
    # zero is one of the centres, moved there, or stands beside them
    for first in (_optimal(*points, count), np.append(_optimal(*points, count - 1), 0.0)):
        centres = _settled(np.sort(first), values, mass, moment)
        which = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
        loss = float(np.square(centres[which] - values) @ share)
        if loss < best:
            best, found = loss, centres
    return np.unique(found.astype(np.float32) + np.float32(0))  # no -0.0


def _settled(centres: Floats, values: Floats, mass: Floats, moment: Floats) -> Floats:
    """Centres after rounds of k-means, the one next to zero held there."""
    for _ in range(ROUNDS):
        edges = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(values)]])
        inside = np.diff(mass[edges])
        moved = np.divide(np.diff(moment[edges]), inside, where=inside > 0, out=centres.copy())
        moved[np.argmin(np.abs(moved))] = 0.0
        moved = np.sort(moved)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _points(values: Floats, mass: Floats, moment: Floats) -> tuple[Floats, Floats]:
    """(values, masses) of at most ``POINTS`` points: distinct values, or means of adjacent weights.

    The latter are as dense as the cube root of the weights' density, like the centres of a good
    codebook of many values (Panter & Dite 1951).
    """
    edges = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values)]])
    if len(edges) - 1 > POINTS:
        parts = np.linspace(0, len(values) - 1, 4 * POINTS + 1).astype(int)
        widths, inside = np.diff(values[parts]), np.diff(mass[parts])
        grown = np.concatenate([[0.0], np.cumsum(np.cbrt(inside * widths**2))])
        borders = np.interp(np.linspace(0, grown[-1], POINTS + 1)[1:-1], grown, values[parts])
        edges = np.unique(np.concatenate([[0], np.searchsorted(values, borders), [len(values)]]))
    masses = np.diff(mass[edges])
    return np.diff(moment[edges]) / masses, masses


def _optimal(values: Floats, masses: Floats, count: int) -> Floats:
    """The best ``count`` centres of ascending points, by dynamic programming over their last points."""
    if len(values) <= count:
        return values
    mass, moment, square = (
        np.concatenate([[0.0], np.cumsum(masses * values**power)]) for power in range(3)
    )
    inside = mass[None, :] - mass[:, None]
    spread = moment[None, :] - moment[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = np.maximum(square[None, :] - square[:, None] - spread**2 / inside, 0)
    loss[np.tril_indices(len(mass))] = np.inf  # a cluster holds a point
    loss = np.ascontiguousarray(loss.T)  # [end, start]
    total, starts = loss[:, 0], []
    for _ in range(count - 1):
        options = total + loss
        starts.append(options.argmin(axis=1))
        total = np.take_along_axis(options, starts[-1][:, None], axis=1)[:, 0]
    bounds = [len(values)]
    for start in reversed(starts):
        bounds.append(int(start[bounds[-1]]))
    edges = np.array([0, *reversed(bounds)])
    return np.diff(moment[edges]) / np.diff(mass[edges])
