"""Calls into the user's own functions, with errors that say whose they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.errors import UserError
from codesign.python_file import run_file
from passes.model import TensorSpec

Arrays = Mapping[str, NDArray[np.generic]]
Predict = Callable[[Arrays], Arrays]
Quality = Callable[[Predict], Mapping[str, float]]
"""Scores a model by what its predict function returns. It is called for one model at a time; a
function with the attribute ``concurrent = True`` may be called in several threads at once."""


def load_function(reference: str) -> Callable[..., Any]:
    """The function that ``file.py:name`` names; see `run_file`.

    Raises:
        UserError: no such file or function, or the file raises.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise UserError("no such Python file", got=reference, allowed="file.py:function")
    module = run_file(path)
    function = getattr(module, name, None)
    if not callable(function):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(
            f"{path.name} has no function {name}", got=reference, allowed=", ".join(public[:12])
        )
    return function


def calibration_samples(
    samples: Callable[[], Iterable[Arrays]] | Iterable[Arrays], inputs: tuple[TensorSpec, ...]
) -> list[Arrays]:
    """The calibration inputs as a list, each checked against the model's inputs.

    Raises:
        UserError: there are none, a name, a shape or a value is wrong, or the user's code raises.
    """
    try:
        found = list(samples() if callable(samples) else samples)
    except Exception as error:
        raise _raised("the calibration function", error) from error
    if not found:
        raise UserError(
            "the calibration set is empty",
            got="0 samples",
            allowed="at least 1, better 100 or more, that look like what the model will see",
        )
    return [_checked(i, sample, inputs) for i, sample in enumerate(found)]


def _checked(number: int, sample: Arrays, inputs: tuple[TensorSpec, ...]) -> Arrays:
    if not isinstance(sample, Mapping):
        raise UserError(
            f"calibration sample {number} is no dict of arrays",
            got=repr(sample)[:200],
            allowed=", ".join(s.name for s in inputs),
        )
    if set(sample) != {s.name for s in inputs}:
        raise UserError(
            f"calibration sample {number} has wrong inputs",
            got=", ".join(sorted(map(str, sample))),
            allowed=", ".join(s.name for s in inputs),
        )
    for spec in inputs:
        array = np.asarray(sample[spec.name])
        if array.shape != spec.shape:
            raise UserError(
                f"calibration sample {number} has a wrong shape at {spec.name}",
                got=str(list(array.shape)),
                allowed=str(list(spec.shape)),
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(
                f"calibration sample {number} holds NaN or infinity at {spec.name}",
                got=f"{np.count_nonzero(~np.isfinite(array))} of {array.size} values",
                allowed="finite numbers",
            )
    return {s.name: np.asarray(sample[s.name], dtype=s.dtype) for s in inputs}


def evaluate(quality: Quality, predict: Predict, metric: str) -> dict[str, float]:
    """What the user's quality function says about a model.

    Raises:
        UserError: it raises, returns something else than name -> number, a NaN, or no ``metric``.
    """
    try:
        values = quality(predict)
    except UserError:
        raise
    except Exception as error:
        raise _raised("the quality function", error) from error
    if not isinstance(values, Mapping) or not values:
        raise UserError(
            "the quality function returned no scores",
            got=repr(values)[:200],
            allowed='a dict of floats, such as {"accuracy": 0.93}',
        )
    scores = {}
    for name, value in values.items():
        try:
            scores[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the quality function returned no number for {name}", got=repr(value)[:100]
            ) from error
    if metric not in scores:
        raise UserError(
            f"the quality function returned no {metric}",
            got=", ".join(scores),
            allowed="the name in goal.metric",
        )
    wrong = [name for name, value in scores.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(
            "the quality function returned a value that is no number",
            got=", ".join(f"{name}={scores[name]}" for name in wrong),
            allowed="finite floats",
        )
    return scores


def is_concurrent(quality: Quality) -> bool:
    """Whether a quality function says that calls in several threads do not disturb each other.

    It must say so itself: one that seeds a global generator, for example, gives wrong scores then.
    """
    return bool(getattr(quality, "concurrent", False))


def _raised(what: str, error: Exception) -> UserError:
    """An exception of the user's own code, with the place where it was raised."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return UserError(
        f"{what} raised {type(error).__name__}",
        got=str(error) or type(error).__name__,
        next=f"it was raised at {place}",
    )
