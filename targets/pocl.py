"""Runs OpenCL programs on this machine, by any driver that pyopencl finds; PoCL makes one of the processor.

It shows what kernels compute, work groups, local memory and barriers included. It says nothing about how
fast a phone is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.opencl_program import Program, arguments

GUARD = 4096
"""Bytes beyond each array that no kernel may touch."""


def lacking() -> str | None:
    """Why no OpenCL program can be run here; None if it can."""
    try:
        import pyopencl
    except ImportError:
        return "pyopencl is not installed"
    try:
        platforms = pyopencl.get_platforms()
    except pyopencl.Error as error:
        return f"no OpenCL driver: {error}"
    return None if any(p.get_devices() for p in platforms) else "no OpenCL device"


@functools.cache
def _queue() -> Any:
    """A command queue on the first device."""
    import pyopencl

    for platform in pyopencl.get_platforms():
        for device in platform.get_devices():
            return pyopencl.CommandQueue(pyopencl.Context([device]))
    raise RuntimeError(lacking())


def device_name() -> str:
    """The device that programs run on, with its driver."""
    device = _queue().device
    return f"{device.platform.name} {device.driver_version}, {device.name.strip()}"


def has_fp16() -> bool:
    """Whether the device computes in float16."""
    return "cl_khr_fp16" in _queue().device.extensions.split()


def compile_program(made: Program, prelude: str = "") -> Any:
    """The program as the driver compiles it; raises pyopencl.RuntimeError with the compiler's words."""
    import pyopencl

    return pyopencl.Program(_queue().context, prelude + made.source).build()


def run_program(
    made: Program, inputs: Sequence[NDArray[Any]], prelude: str = ""
) -> list[NDArray[Any]]:
    """The outputs of one run: what the arguments behind ``inputs`` are afterwards.

    Args:
        prelude: OpenCL C in front of the source, for functions that the driver lacks.

    Raises:
        AssertionError: an input changed, or a kernel wrote behind an array.
    """
    import pyopencl

    queue = _queue()
    built = compile_program(made, prelude)
    values = arguments(made, inputs)
    guard = np.full(GUARD, 0xFF, np.uint8)
    flags = pyopencl.mem_flags.READ_WRITE | pyopencl.mem_flags.COPY_HOST_PTR
    memory = [
        pyopencl.Buffer(
            queue.context, flags, hostbuf=np.concatenate([v.reshape(-1).view(np.uint8), guard])
        )
        for v in values
    ]
    for launch in made.launches:
        size = tuple(g * i for g, i in zip(launch.groups, launch.items, strict=True))
        kernel = pyopencl.Kernel(built, launch.kernel)
        kernel(queue, size, launch.items, *(memory[n] for n in launch.arrays))
    results = []
    for number, (value, buffer) in enumerate(zip(values, memory, strict=True)):
        after = np.empty(value.nbytes + GUARD, np.uint8)
        pyopencl.enqueue_copy(queue, after, buffer)
        name = made.arrays[number].name
        assert (after[value.nbytes :] == 0xFF).all(), f"a kernel wrote behind {name}"
        result = after[: value.nbytes].view(value.dtype).reshape(value.shape)
        if number < len(inputs):
            assert (after[: value.nbytes] == value.reshape(-1).view(np.uint8)).all(), name
        elif number < made.arguments:
            results.append(result.copy())
    return results
