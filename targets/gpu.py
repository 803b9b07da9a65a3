"""What a mobile GPU offers to OpenCL: its limits, as its driver tells them. Data, and no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["adreno", "mali", "opencl"]
"""Whose GPU it is; ``opencl`` is any other device with an OpenCL driver."""


@dataclass(frozen=True)
class Gpu:
    """A GPU with an OpenCL driver.

    Attributes:
        name: as its maker calls it, such as ``Adreno 740``.
        family: decides how kernels are laid out.
        max_threads: work items in one work group, at most (CL_DEVICE_MAX_WORK_GROUP_SIZE).
        subgroup: work items that run in step: a wave, a warp.
        local_bytes: local memory of one work group; on Mali it lies in main memory.
        units: compute units (shader cores); 0 where nobody says.
        fp16: the driver has cl_khr_fp16.
        int8_dot: one instruction adds four products of bytes (cl_khr_integer_dot_product).
    """

    name: str
    family: Family
    max_threads: int
    subgroup: int
    local_bytes: int = 32 * 1024
    units: int = 0
    fp16: bool = True
    int8_dot: bool = False
