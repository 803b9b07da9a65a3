"""Whether a device computes what this machine computes with the same kernels on the same weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from codesign.loop.workshop import Built
from codesign.measure import Rig
from codesign.measurement import Measurement
from codesign.runtime import Predictor
from codesign.user_code import Arrays
from codesign.worker import Failure

EXACT = 1e-3
"""Relative difference (root mean square) that the order of sums may cause."""

OF_ERROR = 0.5
"""Share of the error of a compressed model within which rounding to its codes may fall out otherwise."""


def agreeing(measured: Measurement, rig: Rig, built: Built, sample: Arrays) -> Measurement:
    """The measurement with the difference of the outputs, or a failed one if they are not the same.

    Quantised values near the middle between two codes may fall to either side, on two machines that sum in
    another order; what that changes is less than what quantising changes.

    Args:
        built: on the device, with its twin for here.
        sample: inputs to compare on.
    """
    there = rig.run(built.bundle.path, sample)
    if isinstance(there, Failure):
        return Measurement.failed(str(there), kind=there.kind)
    with Predictor(built.runs_here) as predictor:
        here = predictor.run(sample)
    difference = relative_difference(there, here)
    allowed = EXACT + OF_ERROR * float(built.bundle.manifest["extra"].get("output_error") or 0.0)
    if not difference <= allowed:  # NaN is no agreement
        return Measurement.failed(
            f"its outputs on the device are not those of this machine: relative difference "
            f"{difference:.1e}, at most {allowed:.1e} are expected",
            stage="agreement",
        )
    return measured.with_meta(difference=difference)


def relative_difference(
    there: Mapping[str, NDArray[np.generic]], here: Mapping[str, NDArray[np.generic]]
) -> float:
    """Root mean square of the difference over that of the values, the largest of all outputs."""
    found = []
    for name, mine in here.items():
        a, b = np.asarray(there[name], np.float64), np.asarray(mine, np.float64)
        scale = float(np.sqrt(np.mean(b * b)))
        found.append(float(np.sqrt(np.mean((a - b) ** 2))) / (scale or 1.0))
    return float(np.max(found))
