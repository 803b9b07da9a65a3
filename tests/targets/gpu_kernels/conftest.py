"""Running kernels with the schedules of a GPU on whatever OpenCL device is here, within the limits of the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tvm import tirx

from targets.kernels.spaces import schedules
from targets.opencl_program import excesses, in_float32, program
from targets.pocl import has_fp16, lacking, run_program
from targets.target import Target, find

Array = NDArray[Any]
GpuOutputs = Callable[..., Iterator[list[Array]]]


@pytest.fixture(params=["adreno", pytest.param("mali", marks=pytest.mark.slow)])
def gpu(request: pytest.FixtureRequest) -> Target:
    """Each family of GPUs that has tiles of its own."""
    return find(request.param)


@pytest.fixture(scope="session")
def run_gpu() -> GpuOutputs:
    """``run_gpu(func, target, inputs, every=False)``: the outputs of the first and the last schedule, or of all.

    float16 becomes float32 where the device lacks it.
    """
    if (absent := lacking()) is not None:
        pytest.skip(absent)

    def outputs(
        func: tirx.PrimFunc, target: Target, inputs: Sequence[Array], every: bool = False
    ) -> Iterator[list[Array]]:
        found = schedules(func, target)
        picked = range(len(found)) if every else sorted({0, len(found) - 1})
        for number in picked:
            made = program(found[number], target)
            assert excesses(made, target) == []
            given = list(inputs)
            if any(a.dtype == "float16" for a in made.arrays) and not has_fp16():
                made = in_float32(made)
                given = [v.astype(np.float32) if v.dtype == np.float16 else v for v in given]
            yield run_program(made, given)

    return outputs
