"""Whether an imported model computes what its original does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.errors import UserError
from codesign.frontend.foreign import Foreign
from codesign.frontend.samples import draw
from passes.model import Model

Array = NDArray[np.generic]

TOLERANCE = 1e-4
"""Largest absolute error of an imported model, relative to the largest number of the output."""

QUANTISED_TOLERANCE = 5e-2
"""The same for a model with quantised activations: a number between two codes may be rounded to
either, and what follows carries that on."""


@dataclass(frozen=True)
class Parity:
    """How far an imported model is from its original on one random input.

    Attributes:
        max_abs_error: over all numbers of all outputs.
        relative: the same over the scale (largest absolute number) of the output it is in; the
            worst output.
        tolerance: what ``relative`` may be.
        original: what it was compared with.
    """

    max_abs_error: float
    relative: float
    tolerance: float
    original: str

    @property
    def holds(self) -> bool:
        return self.relative <= self.tolerance


def check_parity(foreign: Foreign, seed: int = 0, tolerance: float | None = None) -> Parity:
    """Compare a model with its original on random inputs.

    The model is compiled by TVM's own pipeline: what is checked is the import, not our kernels.

    Args:
        foreign: the imported model and its original.
        seed: of the inputs.
        tolerance: what the relative error may be; None for TOLERANCE, or QUANTISED_TOLERANCE where
            the model is quantised.

    Raises:
        UserError: the error is above ``tolerance``, or one of the two cannot be run.
    """
    if tolerance is None:
        tolerance = QUANTISED_TOLERANCE if _is_quantised(foreign.model) else TOLERANCE
    feeds = draw(foreign.model, seed)
    expected = _reference(foreign, feeds)
    parity = compare(run_plain(foreign.model, feeds), expected, tolerance, foreign.original)
    if not parity.holds:
        raise UserError(
            f"the imported model does not compute what {foreign.original} does",
            got=f"relative error {parity.relative:.1e} (absolute {parity.max_abs_error:.1e})",
            allowed=f"at most {tolerance:.0e} of the output's scale",
            next="please report the model: this is an error of the import, not of yours",
        )
    return parity


def _is_quantised(model: Model) -> bool:
    values = (b.value for block in model.main.body.blocks for b in block.bindings)
    return any(getattr(getattr(v, "op", None), "name", "") == "relax.quantize" for v in values)


def compare(
    got: Sequence[Array], expected: Sequence[Array], tolerance: float, original: str
) -> Parity:
    """The error of outputs against those of the original; NaN in one only counts as infinite."""
    worst, relative = 0.0, 0.0
    for ours, theirs in zip(got, expected, strict=True):
        a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
            return Parity(np.inf, np.inf, tolerance, original)
        with np.errstate(invalid="ignore"):  # equal infinities are no error
            error = float(np.nanmax(np.where(a == b, 0.0, np.abs(a - b)), initial=0.0))
        scale = float(np.nanmax(np.where(np.isfinite(b), np.abs(b), 0.0), initial=0.0))
        worst = max(worst, error)
        relative = max(relative, error / (scale or 1.0))
    return Parity(worst, relative, tolerance, original)


def run_plain(model: Model, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs of a model compiled by TVM's default pipeline, untuned.

    Raises:
        UserError: TVM cannot compile it.
    """
    try:
        target = tvm.target.Target({"kind": "llvm"})
        machine = relax.VirtualMachine(relax.build(model.mod, target=target), tvm.cpu())
    except Exception as error:
        raise UserError(
            f"{model.name} was imported but cannot be compiled",
            got=str(error).strip().splitlines()[-1][:300],
            next="replace the operator that it names, or report the model",
        ) from error
    arrays = [feeds[spec.name] for spec in model.inputs] + list(model.weights.values())
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(a).reshape(a.shape)) for a in arrays]
    return [output.numpy() for output in machine["main"](*tensors)]


def _reference(foreign: Foreign, feeds: Mapping[str, Array]) -> Sequence[Array]:
    try:
        return foreign.reference(feeds)
    except Exception as error:
        raise UserError(
            f"{foreign.original} cannot run the original model on random inputs",
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}",
            next="check the shapes it was exported for",
        ) from error
