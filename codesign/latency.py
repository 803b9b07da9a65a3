"""A candidate's latency from its kernels' records, corrected by end-to-end runs.

The prediction is ``scale * sum + per_kernel * kernels``: the sum of the measured kernel medians
times their counts, a factor for what back-to-back kernels do to each other (caches, clock), and a
cost of each call. Both numbers are refitted whenever another end-to-end run is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import kendalltau


@dataclass(frozen=True)
class Run:
    """One candidate measured end to end.

    Attributes:
        name: key or label of the candidate.
        kernel_seconds: sum over its kernels of measured time times count.
        kernels: kernel calls of one inference.
        measured: median seconds of the end-to-end run.
    """

    name: str
    kernel_seconds: float
    kernels: int
    measured: float


@dataclass(frozen=True)
class Calibration:
    """From kernel sums to end-to-end seconds.

    Attributes:
        scale: end-to-end seconds for each kernel second; 1 before any run is known.
        per_kernel: seconds that each kernel call adds.
        runs: number of runs that it was fitted to.
    """

    scale: float = 1.0
    per_kernel: float = 0.0
    runs: int = 0

    def predict(self, kernel_seconds: float, kernels: int) -> float:
        """End-to-end seconds."""
        return self.scale * kernel_seconds + self.per_kernel * kernels


def kernel_sum(counts: Mapping[str, int], medians: Mapping[str, float]) -> float:
    """Seconds in kernels: median times count, summed.

    Args:
        counts: kernel hash -> calls of one inference.
        medians: kernel hash -> measured median seconds.

    Raises:
        KeyError: a kernel was not measured.
    """
    return sum(count * medians[kernel] for kernel, count in counts.items())


def fit(runs: Sequence[Run], prior_scale: float = 0.1, prior_call: float = 2e-6) -> Calibration:
    """Fit the calibration: robust least squares (soft L1) on relative residuals.

    A run disturbed by another process should not bend the line, so residuals beyond 2 % count
    linearly. Few runs cannot tell the two parameters apart; a weak prior at ``scale = 1`` and
    ``per_kernel = 0`` decides then, with standard deviations ``prior_scale`` and ``prior_call``
    (seconds), against an assumed noise of 2 %.
    """
    if not runs:
        return Calibration()
    total = np.array([r.kernel_seconds for r in runs])
    calls = np.array([r.kernels for r in runs], dtype=np.float64)
    measured = np.array([r.measured for r in runs])
    noise = 0.02

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        scale, call = 1.0 + x[0] * prior_scale, x[1] * prior_call
        relative = (scale * total + call * calls) / measured - 1.0
        robust = relative / noise
        soft = np.sign(robust) * np.sqrt(2.0 * (np.sqrt(1.0 + robust**2) - 1.0))
        return np.concatenate([soft, x])  # the prior is plain least squares

    x = least_squares(residuals, np.zeros(2)).x
    return Calibration(1.0 + float(x[0]) * prior_scale, float(x[1]) * prior_call, len(runs))


def leave_one_out(runs: Sequence[Run]) -> list[float]:
    """For every run, the prediction of a calibration that has not seen it, in seconds."""
    return [
        fit([*runs[:i], *runs[i + 1 :]]).predict(run.kernel_seconds, run.kernels)
        for i, run in enumerate(runs)
    ]


@dataclass(frozen=True)
class Agreement:
    """How well predictions agree with measurements.

    Attributes:
        count: pairs compared.
        median_error: median of ``|predicted / measured - 1|``; None without a pair.
        worst_error: the largest of them.
        tau: Kendall's rank correlation (tau-b); None below 2 pairs or if all are equal.
    """

    count: int
    median_error: float | None
    worst_error: float | None
    tau: float | None


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Compare predictions with measurements of the same candidates, in the same unit.

    Raises:
        ValueError: the two differ in length.
    """
    if len(predicted) != len(measured):
        raise ValueError(f"{len(predicted)} predictions for {len(measured)} measurements")
    if not measured:
        return Agreement(0, None, None, None)
    errors = np.abs(np.asarray(predicted) / np.asarray(measured) - 1.0)
    tau = float(kendalltau(predicted, measured).statistic) if len(measured) > 1 else float("nan")
    return Agreement(
        len(measured), float(np.median(errors)), float(errors.max()), None if np.isnan(tau) else tau
    )
