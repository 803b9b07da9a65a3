"""Building kernels with the schedules of their space and running them between guards.

On AArch64 they run emulated, wherever the tools for that are; those tests are slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import s_tir, tirx

from targets.emulated import lacking, run_emulated
from targets.kernels.amx import lower_tiles
from targets.kernels.spaces import schedules
from targets.target import Target, find

Array = NDArray[np.generic]
Outputs = Callable[..., Iterator[list[Array]]]

GUARD = 1024
"""Bytes before and after every output that no kernel may touch."""

NAMES = {
    "host": ("host", 1),
    "host-2": ("host", 2),
    "avx2": ("x86-64-v3", 1),
    "avx2-2": ("x86-64-v3", 2),
    "neon": ("aarch64", 1),
    "dotprod": ("aarch64-dotprod", 1),
    "i8mm": ("aarch64-i8mm", 1),
    "dotprod-2": ("aarch64-dotprod", 2),
}

EMULATED = ("dotprod",)
EMULATED_PRODUCTS = ("neon", "dotprod", "i8mm")
"""Each has instructions of its own for products of int8, and all but one of bfloat16."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The targets of ``target`` and ``threaded``: this machine's, and emulated ones."""
    module = metafunc.module.__name__
    short = EMULATED_PRODUCTS if "int8" in module or "bf16" in module else EMULATED
    for fixture, native, emulated in (
        ("target", ["host", "avx2"], short),
        ("threaded", ["host-2", "avx2-2"], ("dotprod-2",)),
    ):
        if fixture in metafunc.fixturenames:
            slow = [pytest.param(name, marks=pytest.mark.slow) for name in emulated]
            metafunc.parametrize(fixture, [*native, *slow], indirect=True)


def a_target(name: str) -> Target:
    """One of NAMES; the test is skipped where this machine cannot run it."""
    target = find(*NAMES[name])
    if target.architecture == "aarch64":
        if (absent := lacking()) is not None:
            pytest.skip(absent)
    elif target.missing():
        pytest.skip(f"this machine lacks {', '.join(sorted(target.missing()))}")
    return target


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """Targets of one thread."""
    return a_target(request.param)


@pytest.fixture
def threaded(request: pytest.FixtureRequest) -> Target:
    """Targets of two threads."""
    return a_target(request.param)


def build(schedule: s_tir.Schedule, target: Target) -> Callable[..., None]:
    """The scheduled function as a callable of tensors."""
    made = tvm.compile(lower_tiles(schedule.mod), target=target.tvm())
    if target.architecture != "aarch64":
        return made["main"]

    def emulated(*tensors: tvm.runtime.Tensor) -> None:
        after = run_emulated(made.mod, [tensor.numpy() for tensor in tensors])
        for tensor, value in zip(tensors, after, strict=True):
            tensor.copyfrom(value)

    return emulated


def guarded(shape: Sequence[int], dtype: str) -> tuple[Array, Array]:
    """(whole memory, the array inside it, aligned to 64 bytes), all bytes 0xFF: NaN or -1."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.full(size + 2 * GUARD + 64, 0xFF, np.uint8)
    start = GUARD + -(memory.ctypes.data + GUARD) % 64
    return memory, memory[start : start + size].view(dtype).reshape(shape)


def call(kernel: Callable[..., None], func: tirx.PrimFunc, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of one call; every input and guard must be as before."""
    made = [
        guarded([int(d) for d in p.shape], str(p.dtype)) for p in list(func.params)[len(inputs) :]
    ]
    given = [tvm.runtime.tensor(np.ascontiguousarray(v)) for v in inputs]
    kernel(*given, *(tvm.runtime.from_dlpack(inside) for _, inside in made))
    for tensor, value in zip(given, inputs, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), value, "an input was written to")
    outputs = []
    for memory, inside in made:
        start = inside.ctypes.data - memory.ctypes.data
        outside = np.concatenate([memory[:start], memory[start + inside.nbytes :]])
        assert (outside == 0xFF).all(), "a kernel wrote beyond its output"
        outputs.append(inside.copy())
    return outputs


@pytest.fixture(scope="session")
def run() -> Outputs:
    """``run(func, target, inputs, every=False)``: the outputs of each schedule of the space.

    Of the first, the middle and the last schedule, or of all with ``every``; emulated, of the first and
    the last.
    """

    def outputs(
        func: tirx.PrimFunc, target: Target, inputs: Sequence[Array], every: bool = False
    ) -> Iterator[list[Array]]:
        found = schedules(func, target)
        picked = {*range(len(found))} if every else {0, len(found) - 1}
        if target.architecture != "aarch64":
            picked.add(len(found) // 2)
        for i in sorted(picked):
            yield call(build(found[i], target), func, inputs)

    return outputs


@pytest.fixture(scope="session")
def compiled() -> Callable[[tirx.PrimFunc, Target], Callable[[Sequence[Array]], list[Array]]]:
    """``compiled(func, target)``: the first schedule of the space, as a function of its inputs."""

    def make(func: tirx.PrimFunc, target: Target) -> Callable[[Sequence[Array]], list[Array]]:
        kernel = build(schedules(func, target)[0], target)
        return lambda inputs: call(kernel, func, inputs)

    return make


@pytest.fixture(scope="session")
def apply() -> Callable[..., list[Array]]:
    """``apply(schedule, func, target, inputs)``: the outputs of one schedule of ``func``."""
    return lambda schedule, func, target, inputs: call(build(schedule, target), func, inputs)


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """``close(got, wanted, tolerance)``: the largest error relative to the largest wanted value."""

    def check(got: Array, wanted: Array, tolerance: float = 2e-6) -> None:
        assert got.shape == wanted.shape
        assert not np.isnan(got).any(), "an output was not written"
        scale = max(float(np.abs(wanted).max()), 1e-30)
        assert np.abs(got.astype(np.float64) - wanted).max() <= tolerance * scale

    return check
