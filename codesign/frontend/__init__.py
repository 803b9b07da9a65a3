"""Imports a model from PyTorch or ONNX and proves that the import computes the same.

``load`` takes what a user names on the command line; ``load_module`` a PyTorch module in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codesign.frontend.foreign import Foreign
from codesign.frontend.onnx_import import from_onnx_file
from codesign.frontend.parity import TOLERANCE, Parity, check_parity
from codesign.frontend.source import Examples, call_function, find_source
from codesign.frontend.torch_export import from_module, from_program_file
from passes.model import Model

if TYPE_CHECKING:
    import torch

__all__ = ["TOLERANCE", "Imported", "Parity", "check_parity", "load", "load_module"]


@dataclass(frozen=True)
class Imported:
    """A model as it was imported, not yet normalised, and how close it is to the original."""

    model: Model
    parity: Parity


def load(spec: str | Path, *, dims: Mapping[str, int] | None = None, seed: int = 0) -> Imported:
    """Import the model that ``spec`` names.

    A ``.pt2`` file is read by ``torch.export.load``, and ``module.py:function`` runs that file:
    both may execute what their author put there, so they need the trust that running a program
    needs. An ``.onnx`` file is data only.

    Args:
        spec: an ``.onnx`` file, a ``.pt2`` file made by ``torch.export.save``, or
            ``module.py:function`` for a function without arguments that returns an
            ``nn.Module`` and its example inputs (a tuple, or a dict by argument name).
        dims: sizes for dynamic dimensions, by the dimension's name or as ``input.axis``.
        seed: of the random inputs for the parity check.

    Raises:
        UserError: the model cannot be read or imported, a dynamic dimension is unbound, a weight is
            NaN or infinite, or the imported model does not compute what the original does.
    """
    source = find_source(spec)
    sizes = dict(dims or {})
    if source.kind == "onnx":
        return _checked(from_onnx_file(source.path, sizes), seed)
    if source.kind == "pt2":
        return _checked(from_program_file(source.path, sizes), seed)
    module, examples = call_function(source)
    return _checked(from_module(module, examples, source.name, sizes), seed)


def load_module(
    module: torch.nn.Module,
    examples: Examples,
    *,
    name: str = "model",
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Imported:
    """Import a PyTorch module for the shapes of its example inputs; otherwise like ``load``."""
    return _checked(from_module(module, examples, name, dict(dims or {})), seed)


def _checked(foreign: Foreign, seed: int) -> Imported:
    return Imported(foreign.model, check_parity(foreign, seed))
