"""Times kernels, in the child: blocks of calls, with the reference kernel between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import tvm
from numpy.typing import NDArray

from codesign.measurement import Protocol
from codesign.worker.place import Timer, place
from targets.kernels.linear_bf16 import bf16_bits, bf16_values

Answer = tuple[Any, list[memoryview]]

_PROBES = 64
_MIN_BLOCKS = 3


def ping(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Echo, and the state of this process: runtime threads, processors, memory in bytes."""
    return {
        "echo": params.get("echo"),
        "threads": int(tvm.get_global_func("runtime.NumThreads")()),
        "processors": sorted(psutil.Process().cpu_affinity() or []),
        "rss": psutil.Process().memory_info().rss,
    }, [memoryview(b) for b in blobs]


@dataclass
class Runnable:
    """A kernel with its arguments, ready to be called and timed."""

    timer: Timer
    args: list[tvm.runtime.Tensor]
    outputs: list[int]

    def block(self, calls: int) -> float:
        """Mean seconds of one call over a block of ``calls``, after one untimed call."""
        return self.timer(self.args, calls)

    def calls_for(self, seconds: float) -> int:
        """Calls that fill a block of the given length."""
        once = self.block(1)
        if once < seconds / 4:  # too short to trust: the clock and the first call weigh in
            once = self.block(max(1, min(1000, int(seconds / 4 / max(once, 1e-8)))))
        return max(1, math.ceil(seconds / max(once, 1e-9)))


def run_kernel(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Call a kernel once on given inputs (one blob per input) and return its outputs' bytes."""
    arrays = iter(blobs)
    tensors = [
        np.full(a["shape"], 0, a["dtype"])
        if a["output"]
        else np.frombuffer(next(arrays), a["dtype"]).reshape(a["shape"])
        for a in params["args"]
    ]
    args = [tvm.runtime.tensor(t, device=place().device) for t in tensors]
    place().library(params["library"])[params["symbol"]](*args)
    results = [t.numpy() for t, a in zip(args, params["args"], strict=True) if a["output"]]
    return None, [memoryview(r.tobytes()) for r in results]


def time_kernel(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Time one kernel of a library.

    Args:
        params: ``library``, ``symbol``, ``args`` (of `KernelArg`), ``reference`` (the same three,
            or None), ``protocol``, ``give_up`` (seconds of one call beyond which one block is
            enough, or None), ``seed``.

    Returns:
        ``samples`` and ``reference`` (seconds per block), ``calls`` per block, ``load``,
        ``probes``: a few values of each output, to compare schedules of the same kernel, and
        ``story`` of the place.
    """
    protocol = Protocol.from_json(params["protocol"])
    kernel = _runnable(params, int(params.get("seed", 0)))
    kernel.block(1)
    probes = [_probe(kernel.args[i].numpy()) for i in kernel.outputs]
    block = protocol.min_block_ms / 1e3
    calls = kernel.calls_for(block)
    reference = _runnable(params["reference"], 0) if params.get("reference") else None
    reference_calls = reference.calls_for(block) if reference else 0
    for _ in range(protocol.warmup):
        once = kernel.block(calls)
    repeats = _repeats(protocol, once if protocol.warmup else kernel.block(calls), calls, params)
    meter = place().meter()
    samples: list[float] = []
    between = [reference.block(reference_calls)] if reference else []
    for _ in range(repeats):
        samples.append(kernel.block(calls))
        if reference:
            between.append(reference.block(reference_calls))
    return {
        "samples": samples,
        "reference": between,
        "calls": calls,
        "load": meter.others(),
        "probes": probes,
        "story": place().story(),
    }, []


def _repeats(protocol: Protocol, once: float, calls: int, params: Mapping[str, Any]) -> int:
    give_up = params.get("give_up")
    if give_up is not None and once > give_up:
        return 1
    affordable = int(protocol.max_seconds / max(once * (calls + 1), 1e-9))
    return max(min(_MIN_BLOCKS, protocol.repeats), min(protocol.repeats, affordable))


def _runnable(params: Mapping[str, Any], seed: int) -> Runnable:
    timer = place().timer(
        params["library"], params["symbol"]
    )  # the smaller to send, and it may not load
    rng = np.random.default_rng(seed)
    args = [tvm.runtime.tensor(_random(a, rng), device=place().device) for a in params["args"]]
    return Runnable(timer, args, [i for i, a in enumerate(params["args"]) if a["output"]])


def _random(arg: Mapping[str, Any], rng: np.random.Generator) -> NDArray[np.generic]:
    """Random values that are valid for an argument; outputs start as values nobody computes.

    Kernels take bfloat16 as uint16, and nothing else.
    """
    shape, dtype = tuple(arg["shape"]), np.dtype(arg["dtype"])
    if dtype.kind == "f":
        if arg["output"]:
            return np.full(shape, np.nan, dtype)
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype == np.uint16 and not arg["output"]:
        return bf16_bits(rng.standard_normal(shape).astype(np.float32))
    if arg["output"]:
        return np.full(shape, np.iinfo(dtype).max, dtype)
    low, high = (0, arg["bound"]) if arg.get("bound") else _integers(dtype)
    return rng.integers(low, high, shape).astype(dtype)


def _integers(dtype: np.dtype[Any]) -> tuple[int, int]:
    """A range of values typical of quantised data."""
    return (0, 256 if dtype.itemsize == 1 else 128) if dtype.kind == "u" else (-127, 128)


def _probe(array: NDArray[np.generic]) -> list[float | None]:
    """Values spread over an output, uint16 as bfloat16; None for one that is not finite."""
    flat = (bf16_values(array.view(np.uint16)) if array.dtype == np.uint16 else array).reshape(-1)
    step = max(1, flat.size // _PROBES)
    return [float(v) if np.isfinite(v) else None for v in flat[::step][:_PROBES]]
