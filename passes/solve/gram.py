"""Second moments of a layer's inputs over the calibration data, and what they alone can solve.

Notation as in GPTQ and OBC: X holds one input vector a row; ``xx = X^T X`` is the layer-wise
Hessian. The *dense* inputs are those of the uncompressed model, the *compressed* ones those that
the layer really gets once the layers before it are compressed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

from passes.errors import PassError
from passes.solve.blas import one_thread
from passes.solve.values import Values

Array = NDArray[np.floating]

DAMPING = 0.03
"""Ridge on the change of a weight, relative to the mean diagonal of the Gram matrix."""

RESIDUAL_DAMPING = 0.2
"""The same where a layer also makes up for a residual: most of that is noise to it. On a layer of
MiniLM behind three pruned ones, 0.1 to 0.3 did best on texts held out, 4 % better than 0.01."""

ROWS = 4096
"""Rows multiplied at once in float32; the sums between them are float64."""

ROUNDING = 2.0**-16
"""Variance of an input at least, of its mean square: below it, and between a few hundred inputs, rounding
in float32 outweighs what is left when the means are taken off, and no matrix of it is positive definite."""


class Gram:
    """Sums over calibration rows of compressed inputs x_c and dense inputs x_d.

    Attributes:
        xx: float64 [K, K], sum of x_c x_c^T.
        cross: float64 [K, K], sum of x_c x_d^T; the same array as ``xx`` until they differ.
        count: number of rows.
        mean_c: float64 [K], mean of x_c.
        mean_d: float64 [K], mean of x_d.
        residual: float64 [K, N], sum of x_c r^T, where r (dense minus compressed) is what the
            stream lacks that the layer's output is added to; None if nothing.
        mean_r: float64 [N], mean of r, or None.
        values: extremes and a sample of x_c itself, whatever is taken off the moments.
    """

    def __init__(self, features: int) -> None:
        self.values = Values(features)
        self.xx = np.zeros((features, features))
        self.cross = self.xx
        self.count = 0
        self.mean_c = np.zeros(features)
        self.mean_d = self.mean_c
        self.residual: NDArray[np.float64] | None = None
        self.mean_r: NDArray[np.float64] | None = None

    @property
    def features(self) -> int:
        return len(self.xx)

    @property
    def drifted(self) -> bool:
        """True if compressed inputs were added that are not the dense ones."""
        return self.cross is not self.xx

    @property
    def changed(self) -> bool:
        """True if the dense weight is not the best: other inputs, or a residual to make up for."""
        return self.drifted or self.residual is not None

    @one_thread
    def add(
        self,
        compressed: ArrayLike,
        dense: ArrayLike | None = None,
        residual: ArrayLike | None = None,
    ) -> Gram:
        """Add rows and return self.

        Args:
            compressed: [..., K], what the layer gets in the compressed model.
            dense: the same rows in the dense model; None if they are the same.
            residual: [..., N], what the stream lacks that the layer's output is added to, dense
                minus compressed; the layer is then solved to make up for it. Always or never.

        Raises:
            PassError: K does not fit, numbers of rows differ, or a value is NaN or infinite.
        """
        c = _rows(compressed, self.features)
        d = c if dense is None else _rows(dense, self.features)
        if c.shape != d.shape:
            raise PassError(
                "dense and compressed inputs differ", got=f"{len(c)} rows", allowed=f"{len(d)} rows"
            )
        if not len(c):
            return self
        self._add_residual(c, residual)
        if dense is not None and not self.drifted:
            self.cross, self.mean_d = self.xx.copy(), self.mean_c.copy()
        self._add_rows(c, d)
        return self

    @one_thread
    def add_outputs(self, compressed: ArrayLike, outputs: ArrayLike) -> Gram:
        """Add rows by what the layer should give to them, and return self.

        It stands for dense inputs and residual together: the inputs then count as zero and the
        residual as everything. Cheaper than ``add`` for a layer with fewer outputs than inputs.
        Rows come to a Gram in this way or in the other, never in both.

        Args:
            compressed: [..., K], what the layer gets in the compressed model.
            outputs: [..., N], what it should give, its bias excluded.
        """
        c = _rows(compressed, self.features)
        if not self.count:
            self.cross, self.mean_d = np.zeros_like(self.xx), np.zeros(self.features)
        self._add_residual(c, outputs)
        self._add_rows(c, None)
        return self

    def _add_rows(self, c: NDArray[np.float32], d: NDArray[np.float32] | None) -> None:
        """Sums and means over compressed inputs, and over dense ones unless they count as zero."""
        for start in range(0, len(c), ROWS):
            part = c[start : start + ROWS]
            self.xx += part.T @ part
            if self.drifted and d is not None:
                self.cross += part.T @ d[start : start + ROWS]
        self.count += len(c)
        self.values.add(c)
        self.mean_c += (c.sum(axis=0, dtype=np.float64) - len(c) * self.mean_c) / self.count
        if self.drifted and d is not None:
            self.mean_d += (d.sum(axis=0, dtype=np.float64) - len(d) * self.mean_d) / self.count

    def _add_residual(self, c: NDArray[np.float32], residual: ArrayLike | None) -> None:
        with_it = residual is not None
        if self.count and with_it != (self.residual is not None):
            raise PassError("residuals must come with all calibration rows or with none")
        if residual is None:
            return
        r = _rows(residual, np.shape(residual)[-1])
        if len(r) != len(c):
            raise PassError(
                "residuals and inputs differ", got=f"{len(r)} rows", allowed=f"{len(c)} rows"
            )
        if self.residual is None or self.mean_r is None:
            self.residual = np.zeros((self.features, r.shape[1]))
            self.mean_r = np.zeros(r.shape[1])
        for start in range(0, len(c), ROWS):
            self.residual += c[start : start + ROWS].T @ r[start : start + ROWS]
        total = self.count + len(c)
        self.mean_r += (r.sum(axis=0, dtype=np.float64) - len(r) * self.mean_r) / total

    def wanted(self, W: Array) -> NDArray[np.float64]:
        """X_c^T Y [K, N] for the outputs Y = X_d W^T + r that the layer should give."""
        product: NDArray[np.float64] = self.cross @ np.asarray(W, dtype=np.float64).T
        return product if self.residual is None else product + self.residual

    def centred(self) -> Gram:
        """The Gram of the inputs minus their means: what a layer with a free bias is judged by."""
        out = Gram(self.features)
        out.count, out.values = self.count, self.values
        out.xx = self.xx - self.count * np.outer(self.mean_c, self.mean_c)
        # inputs that hardly vary leave the rounding of float32 sums, of either sign: a ridge over it
        variance = np.diag(out.xx).copy()
        ridge = np.maximum(ROUNDING * np.maximum(np.diag(self.xx), 0) - variance, 0)
        out.xx[np.diag_indices_from(out.xx)] += ridge
        out.cross = out.xx
        if self.drifted:
            out.cross = self.cross - self.count * np.outer(self.mean_c, self.mean_d)
            out.cross[np.diag_indices_from(out.cross)] += ridge
        if self.residual is not None and self.mean_r is not None:
            out.residual = self.residual - self.count * np.outer(self.mean_c, self.mean_r)
            out.mean_r = np.zeros_like(self.mean_r)
        return out

    def rows(self, kept: NDArray[np.intp]) -> Gram:
        """The Gram of the inputs ``kept`` alone, in that order."""
        out = Gram(len(kept))
        out.count, out.values = self.count, self.values.of(kept)
        out.xx = self.xx[np.ix_(kept, kept)]
        out.cross = self.cross[np.ix_(kept, kept)] if self.drifted else out.xx
        out.mean_c = self.mean_c[kept]
        out.mean_d = self.mean_d[kept] if self.drifted else out.mean_c
        if self.residual is not None:
            out.residual, out.mean_r = self.residual[kept], self.mean_r
        return out


@one_thread
def target_weight(W: Array, gram: Gram, damping: float | None = None) -> NDArray[np.float64]:
    """The weight [N, K] that on compressed inputs best gives the outputs of W on the dense ones.

    Minimises ``|X_c W'^T - (X_d W^T + R)|^2 + ridge |W' - W|^2``, R being the residual if the Gram
    has one; W itself if the inputs are the same and there is none. ``damping`` is by default
    ``DAMPING``, or ``RESIDUAL_DAMPING`` with a residual.
    """
    check_finite("weight", W)
    weight = np.asarray(W, dtype=np.float64)
    if not gram.changed:
        return weight
    check_finite("Gram matrix", gram.cross)
    if damping is None:
        damping = DAMPING if gram.residual is None else RESIDUAL_DAMPING
    h = damped(gram.xx, damping)
    ridge = np.diag(h) - np.diag(gram.xx)
    right = gram.wanted(weight) + ridge[:, None] * weight.T
    factor = cho_factor(h, lower=True, overwrite_a=True, check_finite=False)
    return np.ascontiguousarray(cho_solve(factor, right, overwrite_b=True, check_finite=False).T)


def corrected_bias(
    bias: Array, dense_weight: Array, weight: Array, gram: Gram
) -> NDArray[np.float32]:
    """The bias [N] that gives ``weight``, on compressed inputs, the dense layer's mean output."""
    shift = dense_weight.astype(np.float64) @ gram.mean_d - weight.astype(np.float64) @ gram.mean_c
    if gram.mean_r is not None:
        shift += gram.mean_r
    return (bias + shift).astype(np.float32)


@one_thread
def squared_error(change: Array, xx: Array) -> NDArray[np.float64]:
    """Per output row n, ``|X change_n|^2``: float64 [N] for a change of weights [N, K]."""
    change = change.astype(np.float64)
    return np.einsum("nk,nk->n", change @ xx, change)


def relative_error(weight: Array, target: Array, xx: Array) -> float:
    """Energy of the output error over that of the output; 0 if there is no output."""
    energy = squared_error(target, xx).sum()
    return float(squared_error(weight - target, xx).sum() / energy) if energy > 0 else 0.0


def damped(xx: Array, damping: float = DAMPING) -> NDArray[np.float64]:
    """xx plus a ridge of ``damping`` times its mean diagonal (1 if that is 0): positive definite.

    Raises PassError on NaN, infinity, or a negative diagonal.
    """
    check_finite("Gram matrix", xx)
    h = np.array(xx, dtype=np.float64)
    diagonal = np.diag(h)
    mean = float(diagonal.mean())
    if diagonal.min() < -1e-9 * max(mean, 0.0):
        raise PassError(
            "the Gram matrix is no X^T X",
            got=f"diagonal element {diagonal.min():g}",
            allowed=">= 0",
        )
    h[np.diag_indices_from(h)] = np.maximum(diagonal, 0) + (damping * mean if mean > 0 else 1.0)
    return h


def check_finite(what: str, array: Array) -> None:
    """Raise PassError if ``array`` holds NaN or infinity."""
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise PassError(
            f"the {what} holds values that are no numbers",
            got=f"{bad} NaN or infinite of {array.size}",
            allowed="finite values",
            next="look for NaN in the weights and in the calibration inputs",
        )


def _rows(inputs: ArrayLike, features: int) -> NDArray[np.float32]:
    rows = np.asarray(inputs, dtype=np.float32)
    if rows.ndim < 1 or rows.shape[-1] != features:
        raise PassError(
            "calibration inputs do not fit the layer",
            got=str(rows.shape),
            allowed=f"(..., {features})",
        )
    check_finite("calibration input", rows)
    return rows.reshape(-1, features)
