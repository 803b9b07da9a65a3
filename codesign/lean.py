"""Importing TVM without PyTorch, for processes that only run what was built."""

from __future__ import annotations

import sys
from importlib import import_module


def import_tvm() -> None:
    """Import TVM; PyTorch is not imported with it, unless this process has it already.

    tvm_ffi imports torch wherever it finds it, to exchange tensors with it: 2 s and 200 MB that a
    process which runs bundles on NumPy arrays does not need. It may still import torch afterwards.
    """
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import_module("tvm")
    finally:
        if hide:
            del sys.modules["torch"]
