"""A sweep as it is asked for: settings, and the user's own functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.config import SweepConfig
from codesign.user_code import Arrays, Quality, load_function


@dataclass(frozen=True)
class Scorer:
    """A quality function, and a tag under which its scores are kept.

    Attributes:
        tag: changes when the function or its file changes, so that old scores are not mixed in.
    """

    function: Quality
    tag: str


@dataclass(frozen=True)
class SweepRequest:
    """Everything a sweep needs.

    Attributes:
        config: settings.
        model: path or ``module.py:function``, or the module and its example inputs.
        quality: scores the final points.
        search_quality: steers the search; data of its own, so that ``quality`` stays unseen.
        calibration: yields inputs for the solvers.
    """

    config: SweepConfig
    model: Any
    quality: Scorer
    search_quality: Scorer
    calibration: Callable[[], Iterable[Arrays]]

    @classmethod
    def of(cls, config: SweepConfig) -> SweepRequest:
        """Load the functions that a sweep file names. Raises UserError."""
        quality = _scorer(config.quality)
        steering = _scorer(config.search_quality) if config.search_quality else quality
        return cls(config, config.model, quality, steering, load_function(config.calibration))


def _scorer(reference: str) -> Scorer:
    file, _, name = reference.rpartition(":")
    function = load_function(reference)
    content = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return Scorer(function, f"{Path(file).name}:{name}:{content}")
