"""GPUs as compile targets without a device in mind: any Adreno, any Mali, whatever speaks OpenCL. Data, and no TVM.

Limits are the smallest that drivers of the family are known to have, so that code runs on all of them.
"""

from __future__ import annotations

from typing import NoReturn

from targets.errors import TargetError
from targets.gpu import Gpu
from targets.target import Target

VECTOR_BITS = 128
"""Of one load of a work item: four float32. A packed block of weights is two of them (`Target.block`)."""

REGISTERS = 32
"""Vectors of 128 bits that a work item may keep while enough of them run at once to hide memory."""

ANDROID = "aarch64-linux-android"
"""Triple of the host code of a phone."""

_PHONE = frozenset({"neon"})


def gpu_target(
    name: str,
    gpu: Gpu,
    description: str,
    *,
    architecture: str = "aarch64",
    triple: str = ANDROID,
    features: frozenset[str] = _PHONE,
) -> Target:
    """A target whose kernels run on ``gpu``; the rest describes the processor that starts them."""
    return Target(
        name,
        "generic",
        features,
        VECTOR_BITS,
        REGISTERS,
        description,
        kind="opencl",
        architecture=architecture,
        triple=triple,
        gpu=gpu,
    )


ADRENO = gpu_target(
    "adreno", Gpu("Adreno", "adreno", max_threads=256, subgroup=64), "any Adreno GPU, OpenCL"
)
MALI = gpu_target("mali", Gpu("Mali", "mali", max_threads=256, subgroup=16), "any Mali GPU, OpenCL")
OPENCL = gpu_target(
    "opencl",
    Gpu("OpenCL", "opencl", max_threads=128, subgroup=1, fp16=False),
    "any OpenCL 1.2 device of an x86-64 machine",
    architecture="x86_64",
    triple="",
    features=frozenset(),
)

GENERIC: dict[str, Target] = {t.name: t for t in (ADRENO, MALI, OPENCL)}
"""GPU targets by name, for a phone that no description is known of."""

NO_VULKAN = (
    "apache-tvm's wheel has neither a Vulkan runtime nor a SPIR-V code generator (docs/gpu.md)"
)


def refuse_vulkan(name: str) -> NoReturn:
    """Raise TargetError: Vulkan is the one way to a phone's GPU that this installation cannot take."""
    raise TargetError(
        "no code can be made for Vulkan",
        got=f"{name}: {NO_VULKAN}",
        allowed=", ".join(GENERIC),
        next="--target adreno or --target mali: phones have OpenCL beside Vulkan",
    )
