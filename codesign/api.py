"""The sweep for Python programs: models and functions in memory instead of files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import CodeType
from typing import Any

from codesign.config import PASSES, Budget, Goal, SweepConfig, override
from codesign.frozen import FrozenMap
from codesign.loop.outcome import SweepResult
from codesign.loop.request import Scorer, SweepRequest
from codesign.progress import ProgressReporter, progress_for
from codesign.sweep import sweep_request
from codesign.user_code import Arrays, Quality


def sweep_model(
    model: Any,
    *,
    quality: Quality,
    calibration: Callable[[], Iterable[Arrays]] | Iterable[Arrays],
    metric: str,
    search_quality: Quality | None = None,
    target: str = "host",
    threads: int = 1,
    device: str | None = None,
    tracker: str | None = None,
    cpus: str = "",
    output: str | Path = "runs/sweep",
    records: str | Path | None = None,
    max_latency_ms: float | None = None,
    min_quality: float | None = None,
    max_loss: float | None = None,
    max_size_mb: float | None = None,
    size: bool = False,
    minutes: float | None = None,
    measurements: int | None = 16,
    passes: tuple[str, ...] = PASSES,
    trials: int = 2,
    dims: Mapping[str, int] | None = None,
    tag: str = "",
    progress: ProgressReporter | None = None,
) -> SweepResult:
    """Find the frontier of latency and quality of a model.

    Args:
        model: a path, ``module.py:function``, or (nn.Module, example inputs).
        quality: scores a predict function; ``metric`` names the score that counts. Predict takes
            one array for each input, and returns one for each output.
        calibration: inputs for the solvers, or a function that gives them; not held-out data.
        metric: what of ``quality`` is to be kept high.
        search_quality: steers the search on other data than ``quality``; default: the same.
        target: a name of ``codesign targets``.
        threads: of the compressed models.
        device, tracker, cpus: measure on the devices of this key; see `codesign.where.Where`.
        output: folder of the run; the same call goes on with a run that was stopped.
        records: file of all measurements; default: beside ``output``.
        max_latency_ms, min_quality, max_loss, max_size_mb: goals; all are optional.
        size: the frontier is of latency, quality and size; a limit of the size asks for it too.
        minutes, measurements: budget of the search.
        passes: which to use.
        trials: schedules tried for each kernel.
        dims: sizes of dynamic dimensions.
        tag: names the data behind ``quality``; scores of the same tag are not computed again.
        progress: hears of the work; default: bars on standard error.

    Raises:
        UserError: anything that the caller can mend.
    """
    name = model if isinstance(model, str | Path) else type(model[0]).__name__
    config = SweepConfig(
        str(name),
        target,
        "python.py:quality",
        "python.py:calibration",
        Goal(metric, max_latency_ms, min_quality, max_loss, max_size_mb, size),
        records=None if records is None else str(records),
        threads=threads,
        device=device,
        tracker=tracker,
        cpus=cpus,
        passes=passes,
        output=str(output),
        trials=trials,
        dims=FrozenMap(dims or {}),
        budget=Budget(minutes, measurements),
    )
    config = replace(override(config), model=config.model)  # the checks of a sweep file
    scorer = Scorer(quality, _tag(quality, tag))
    steering = Scorer(search_quality, _tag(search_quality, tag)) if search_quality else scorer
    samples = calibration if callable(calibration) else (lambda: calibration)
    request = SweepRequest(config, model, scorer, steering, samples)
    if progress is not None:
        return sweep_request(request, progress=progress)
    with progress_for(False) as bars:
        return sweep_request(request, progress=bars)


def _tag(function: Quality, tag: str) -> str:
    """Scores are kept under the function's own code, so that a changed function is asked again."""
    code = getattr(function, "__code__", None)
    body = _text(code) if code is not None else type(function).__qualname__
    return f"{tag}:{hashlib.sha256(body.encode()).hexdigest()[:16]}"


def _text(constant: object) -> str:
    """A code object or one of its constants as text that is the same in every process."""
    if isinstance(constant, CodeType):
        parts = [constant.co_code.hex(), *constant.co_names, *map(_text, constant.co_consts)]
        return f"({' '.join(parts)})"
    if isinstance(constant, frozenset):
        return f"{{{' '.join(sorted(map(_text, constant)))}}}"
    return repr(constant)
