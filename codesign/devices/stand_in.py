"""A processor that runs a GPU's code: it proves that the code is right, and no time of it is a GPU's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_stand_in(told: Mapping[str, Any], kind: str) -> bool:
    """Whether code of a kind runs on something else than it was made for.

    Args:
        told: of the device, by our server; ``opencl_type`` is what the driver says of its OpenCL device.
        kind: code generator, ``llvm`` or ``opencl``.
    """
    return kind == "opencl" and told.get("opencl_type") == "cpu"
