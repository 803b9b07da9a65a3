"""What tests of whole sweeps share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from codesign.loop.outcome import SweepResult

Samples = list[dict[str, NDArray[Any]]]


@pytest.fixture(scope="session")
def sweep_encoder() -> Callable[..., SweepResult]:
    """Sweeps an encoder with one input; the quality is its agreement with the dense one on samples."""
    import torch

    from codesign.api import sweep_model
    from codesign.progress import Silent

    def sweep(
        module: torch.nn.Module,
        samples: Samples,
        calibration: Samples,
        passes: tuple[str, ...],
        output: Path,
    ) -> SweepResult:
        (name,) = samples[0]
        with torch.no_grad():
            wanted = [module(torch.from_numpy(s[name])).numpy() for s in samples]

        def quality(predict: Any) -> dict[str, float]:
            errors = []
            for sample, right in zip(samples, wanted, strict=True):
                (found,) = predict(sample).values()
                errors.append(np.square(found - right).sum() / np.square(right).sum())
            return {"agreement": 1 - float(np.mean(errors))}

        return sweep_model(
            (module, {name: torch.zeros(samples[0][name].shape)}),
            quality=quality,
            calibration=calibration,
            output=output,
            metric="agreement",
            trials=1,
            measurements=2,
            passes=passes,
            progress=Silent(),
        )

    return sweep
