"""Tucker-2 of a convolution: fewer channels in, a smaller core of the same window, channels out again.

Only the two channel modes are reduced (Kim et al. 2016): ``W = last x core x first`` is a 1x1
convolution, one of the old window on fewer channels, and another 1x1. What is minimised is the
output's error on windows of Gram matrix H, ``tr((W - W') H (W - W')^T)``. For given input channels
the core and the output channels are the exact minimum (reduced-rank regression, Izenman 1975).
Input channels come from the higher-order SVD, refined in alternation (HOOI, De Lathauwer et al. 2000),
in the metric of the channels' own moments, taps alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from passes.errors import PassError
from passes.solve.blas import one_thread
from passes.solve.gram import DAMPING, Array, check_finite, damped
from passes.solve.low_rank import leading

STEPS = 4
"""Alternations; the error of the best is kept, and few gain after the second."""


class Tucker2(NamedTuple):
    """The three layers in the order in which they run.

    Attributes:
        first: [r_in, C], a 1x1 convolution.
        core: [r_out, r_in, kh, kw], with the strides, padding and dilation of the old one.
        last: [O, r_out], a 1x1 convolution.
    """

    first: NDArray[np.float32]
    core: NDArray[np.float32]
    last: NDArray[np.float32]

    @property
    def product(self) -> NDArray[np.float32]:
        """The effective dense weight [O, C, kh, kw]."""
        parts = (p.astype(np.float64) for p in (self.last, self.core, self.first))
        return np.einsum("op,pqrs,qc->ocrs", *parts, optimize=True).astype(np.float32)


@one_thread
def tucker2(
    W: Array, rank_in: int, rank_out: int, xx: Array | None = None, *, damping: float = DAMPING
) -> Tucker2:
    """The factors of a convolution's weight.

    Args:
        W: [O, C, kh, kw].
        rank_in: channels of the core's input, 1 to C.
        rank_out: channels of the core's output, 1 to min(O, rank_in * kh * kw).
        xx: [C*kh*kw, C*kh*kw] Gram matrix of the windows, input (c*kh + r)*kw + s; None takes all
            windows as equally likely.
        damping: ridge on the change of the weight, relative to the mean diagonal of xx.

    Raises:
        PassError: shapes that do not fit, a rank out of range, NaN or infinity.
    """
    _check(W, rank_in, rank_out, xx)
    outputs, channels, *window = W.shape
    features = channels * int(np.prod(window))
    weight = np.asarray(W, dtype=np.float64).reshape(outputs, features)
    h = np.eye(features) if xx is None else damped(xx, damping)
    lower = cholesky(_over_taps(h, channels), lower=True, check_finite=False)
    outward = leading(weight @ h @ weight.T, rank_out)
    found: list[tuple[float, Tucker2]] = []
    for _ in range(STEPS):
        first = _input_channels(outward.T @ weight, lower, rank_in)
        outward, core, explained = _rest(weight, h, first, rank_out)
        core = core.reshape(rank_out, rank_in, *window)
        found.append((explained, Tucker2(*(_plain(p) for p in (first, core, outward)))))
    return max(found, key=lambda f: f[0])[1]


def _over_taps(h: Array, channels: int) -> NDArray[np.float64]:
    """The moments of channels [C, C], summed over the taps of a window."""
    taps = len(h) // channels
    return np.einsum("ctdt->cd", h.reshape(channels, taps, channels, taps))


def _input_channels(rows: Array, lower: Array, rank: int) -> NDArray[np.float64]:
    """first [r, C] for the channels that matter most to ``rows`` [any, C*taps]."""
    channels = len(lower)
    fibres = rows.reshape(len(rows), channels, -1).transpose(1, 0, 2).reshape(channels, -1)
    turned = lower.T @ fibres
    basis = leading(turned @ turned.T, rank)
    found: NDArray[np.float64] = solve_triangular(
        lower, basis, lower=True, trans=1, check_finite=False
    ).T
    return found


def _rest(
    weight: Array, h: Array, first: Array, rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Output channels [O, r] and core [r, r_in*taps] that are best behind ``first``, and the energy
    of the outputs that they explain."""
    reduced, channels = first.shape
    taps = len(h) // channels
    half = np.einsum("qc,ctx->qtx", first, h.reshape(channels, taps, -1), optimize=True)
    half = half.reshape(reduced * taps, -1)  # moments of reduced with all inputs
    moments = np.einsum(
        "xct,qc->xqt", half.reshape(-1, channels, taps), first, optimize=True
    ).reshape(len(half), -1)
    cross = weight @ half.T
    factor = cho_factor(moments, lower=True, check_finite=False)
    regression = cho_solve(factor, cross.T, check_finite=False).T
    outward = leading(regression @ cross.T, rank)
    core = outward.T @ regression
    return outward, core, float(np.einsum("pk,pk->", core, outward.T @ cross))


def _plain(array: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)


def _check(W: Array, rank_in: int, rank_out: int, xx: Array | None) -> None:
    outputs, channels, kh, kw = W.shape
    check_finite("weight", W)
    features = channels * kh * kw
    if xx is not None and xx.shape != (features, features):
        raise PassError(
            "the Gram matrix does not fit the weight",
            got=str(xx.shape),
            allowed=f"({features}, {features})",
        )
    for name, rank, most in (
        ("rank_in", rank_in, channels),
        ("rank_out", rank_out, min(outputs, rank_in * kh * kw)),
    ):
        if not 1 <= rank <= most:
            raise PassError(f"{name} out of range", got=str(rank), allowed=f"1 to {most}")
