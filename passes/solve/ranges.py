"""Static uint8 codes for the inputs of a layer, from what values they took in calibration.

A wide range spares the largest values, a narrow one has finer steps for all others (Krishnamoorthi,
"Quantizing deep convolutional networks for efficient inference", 2018; Nagel et al., "A white paper on
neural network quantization", 2021). Channels differ in how much they span: what makes a channel's
steps smaller makes its weights' steps larger, by the same factor (SmoothQuant, Xiao et al. 2023).
There the factor is moved into the layer before; here it is a part of the quantiser, which costs as
little and works behind anything. Zero points are of each channel too (Wei et al. 2023, Outlier
Suppression+, shift channels), since the sums that they add are constants of a layer.

Zero is one of the codes of every channel: padding and removed inputs stay exact. Where no value is
negative it is code 0, and nothing is lost to a sign.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.errors import PassError
from passes.solve.gptq import LEVELS
from passes.solve.values import Values
from targets.kernels.quantize_static import LAST_CODE

Rows = NDArray[np.float32]

MIDDLE = 128
"""The zero of symmetric codes."""

SMALLEST_SPREAD = 1e-30
"""Of inputs that are all zero: nothing is divided by zero."""

SHALLOWEST = 2.0**-8
"""A channel spans at least so much of the widest one: it may be more alive than in calibration."""

BALANCES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Powers of a channel's span tried as its steps: 1 fills the codes of all channels and leaves the
differences to the weights, 0 is one step for all."""

WORTH = 0.9
"""Another balance than the first must leave so much of the error or less: the first one depends on
the inputs alone, so that layers which read the same share its codes."""

FED_BACK = 0.1
"""Share of the error of independently rounded weights that error feedback leaves, about. On MiniLM,
layers picked with 1 instead came out 40 % worse, with 0.03 hardly better."""

SHARES = 0.9 ** np.arange(13)
"""Parts of the full range that are tried, down to 28 %."""


@dataclass(frozen=True)
class Codes:
    """uint8 codes of x [..., K]: ``clip(round(x / scale + zero), 0, 255)``.

    Attributes:
        scale: float32 [K], positive.
        zero: int32 [K], the codes of zero.
    """

    scale: NDArray[np.float32]
    zero: NDArray[np.int32]

    def steps(self, x: Rows) -> Rows:
        """Codes less zero points."""
        codes = np.rint(x * (np.float32(1) / self.scale) + self.zero.astype(np.float32))
        return np.clip(codes, 0, LAST_CODE) - self.zero.astype(np.float32)

    def of(self, x: Rows) -> Rows:
        """x as its codes stand for it."""
        return self.steps(x) * self.scale

    def each(self, times: int) -> Codes:
        """Every channel's codes ``times`` in a row."""
        return Codes(np.repeat(self.scale, times), np.repeat(self.zero, times))


def fitted(
    values: Values,
    weight: NDArray[np.floating],
    method: str,
    taps: int = 1,
    symmetric: bool = False,
) -> Codes:
    """The codes [C] for the channels of a layer's inputs.

    Args:
        values: what the inputs [C * taps] took in calibration.
        weight: [N, C * taps].
        method: how much of the range is kept. ``minmax``: nothing is clipped. ``percentile P``: P
            percent of the values are inside (99.9, 99.99). ``mse``: the least error of the outputs,
            as far as it can be told without rounding the weights.
        taps: inputs of a channel, adjacent.
        symmetric: code 128 is the zero of every channel, and as many steps lie below it as above.
            Half the codes are lost where no value is negative; kernels gain nothing by it here.

    Raises:
        PassError: no calibration rows, or another method.
    """
    if not len(values.rows):
        raise PassError("a range without calibration data", next="add calibration rows to the Gram")
    low = values.low.reshape(-1, taps).min(axis=1).astype(np.float64)
    high = values.high.reshape(-1, taps).max(axis=1).astype(np.float64)
    if symmetric:
        high = np.maximum(-low, high) * (LAST_CODE / (LAST_CODE - 1))  # 127 steps above 128
        low = -high
    spread = np.maximum(high - low, SMALLEST_SPREAD)
    zero = np.full(len(low), MIDDLE) if symmetric else np.rint(LAST_CODE * -low / spread)
    zero = zero.astype(np.int32)
    spread = np.maximum(spread / spread.max(), SHALLOWEST) * spread.max()
    judge = _Judge(values.rows, np.asarray(weight, np.float32))
    best, least = None, np.inf
    for balance in BALANCES:
        shape = Codes((spread**balance).astype(np.float32), zero)
        full = float((spread / shape.scale).max() / LAST_CODE)
        sizes = _sizes(method, full, _needed(values.rows, shape.each(taps)))
        found = [Codes((shape.scale * size).astype(np.float32), zero) for size in sizes]
        errors = [judge.error(codes.each(taps)) for codes in found]
        if best is None or min(errors) < WORTH * least:
            best, least = found[int(np.argmin(errors))], min(errors)
    assert best is not None
    return best


def _sizes(method: str, full: float, needed: Rows) -> list[float]:
    """Factors of the scales to be tried, the largest first."""
    if method == "minmax":
        return [full]
    if method == "mse":
        return [float(full * share) for share in SHARES]
    match = re.fullmatch(r"percentile (\d+(?:\.\d+)?)", method)
    if match is None or not 50 < float(match[1]) <= 100:
        raise PassError(
            "unknown way to choose a range",
            got=method,
            allowed="minmax, mse, percentile 50 to 100",
        )
    return [float(np.percentile(needed, float(match[1]))) or full]


def _needed(x: Rows, shape: Codes) -> Rows:
    """By what the scales of ``shape`` must be multiplied so that a value is not clipped; 0 if it is."""
    zero = shape.zero.astype(np.float32)
    room = np.where(x > 0, LAST_CODE - zero, zero) * shape.scale
    return np.divide(np.abs(x), room, out=np.zeros_like(x), where=room > 0)


class _Judge:
    """Tells the squared error of a layer's outputs for codes of its inputs, a mean over rows."""

    def __init__(self, rows: Rows, weight: NDArray[np.float32]) -> None:
        self._rows = rows
        self._weight = np.abs(weight)
        self._energy = np.square(weight, dtype=np.float64).sum(axis=0)

    def error(self, codes: Codes) -> float:
        """Of rounding and clipping the inputs, and of rounding the weights: as if all were independent."""
        steps = codes.steps(self._rows)
        change = np.square(steps * codes.scale - self._rows).mean(axis=0, dtype=np.float64)
        unit = (self._weight * codes.scale).max(axis=1, initial=0).astype(np.float64) / LEVELS
        power = np.square(steps).sum(axis=1, dtype=np.float64).mean()
        rounding = FED_BACK * float(np.square(unit).sum()) / 12
        return float(change @ self._energy + rounding * power)
