"""Ranges of uint8 codes for the inputs of a layer, from what values they took in calibration.

A wide range spares the largest values, a narrow one has finer steps for all others (Krishnamoorthi,
"Quantizing deep convolutional networks for efficient inference", 2018; Nagel et al., "A white paper on
neural network quantization", 2021). Every range has zero in it, as one of its codes: padding and
removed inputs stay exact. Where no value is negative, zero is code 0, and nothing is lost to a sign.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from passes.errors import PassError
from passes.solve.values import Values

LAST_CODE = 255

SMALLEST_SCALE = 1e-30
"""Scale of inputs that are all zero: nothing is divided by zero."""

SHARES = 0.9 ** np.arange(33, dtype=np.float64)
"""Parts of the largest magnitude that are tried as an end of the range, down to 3 %."""


class Codes(NamedTuple):
    """uint8 codes of a real x: ``clip(round(x / scale) + zero, 0, 255)``.

    Attributes:
        scale: a float32 number, positive.
        zero: the code of zero.
    """

    scale: float
    zero: int

    def of(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """x as its codes stand for it."""
        inverse = np.float32(1.0 / self.scale)
        codes = np.clip(np.rint(x * inverse), -self.zero, LAST_CODE - self.zero)
        return np.asarray(codes * np.float32(self.scale), np.float32)


def codes_between(low: float, high: float) -> Codes:
    """The codes that span ``low`` to ``high`` and zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / LAST_CODE, SMALLEST_SCALE)))
    return Codes(scale, int(np.clip(np.rint(-low / scale), 0, LAST_CODE)))


def fitted(values: Values, method: str) -> Codes:
    """The codes for the inputs of a layer.

    Args:
        values: what they took in calibration.
        method: ``minmax``: nothing is clipped. ``percentile P``: P percent of the values of either
            sign's tail are inside (99.9, 99.99). ``mse``: the least squared error of the sample.

    Raises:
        PassError: no calibration rows, or another method.
    """
    if not len(values.rows):
        raise PassError("a range without calibration data", next="add calibration rows to the Gram")
    low, high = float(values.low.min(initial=0)), float(values.high.max(initial=0))
    if method == "minmax":
        return codes_between(low, high)
    if method == "mse":
        return _least_error(values.rows, low, high)
    if (match := re.fullmatch(r"percentile (\d+(?:\.\d+)?)", method)) is not None:
        share = float(match[1])
        if 50 < share <= 100:
            ends = np.percentile(values.rows, [100 - share, share])
            return codes_between(*(float(e) for e in ends))
    raise PassError(
        "unknown way to choose a range", got=method, allowed="minmax, mse, percentile 50 to 100"
    )


def _least_error(x: NDArray[np.float32], low: float, high: float) -> Codes:
    """The codes with the least squared error: both ends together, then each with the other one held."""
    best = codes_between(low, high)
    least, at = _squared_error(x, best), (1.0, 1.0)
    for moves in ((1, 1), (1, 0), (0, 1)):
        start = at
        for share in SHARES:
            ends = tuple(share if move else held for move, held in zip(moves, start, strict=True))
            codes = codes_between(low * ends[0], high * ends[1])
            error = _squared_error(x, codes)
            if error < least:
                best, least, at = codes, error, (ends[0], ends[1])
    return best


def _squared_error(x: NDArray[np.float32], codes: Codes) -> float:
    change = (codes.of(x) - x).ravel()
    return float(change @ change)
