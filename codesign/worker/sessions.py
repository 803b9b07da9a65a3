"""Runs and times bundles, in the child."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.bundle import MANIFEST
from codesign.measurement import Protocol
from codesign.runtime import Runtime
from codesign.tensors import pack, unpack
from codesign.worker.load import LoadMeter

Answer = tuple[Any, list[memoryview]]
Arrays = dict[str, NDArray[np.generic]]

_PROBES = 3
"""Calls that find out how many fill a block."""

_loaded: dict[str, tuple[tuple[int, int], Runtime]] = {}


def load_bundle(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Load the bundle ``path``, or do nothing if it is loaded."""
    _runtime(params["path"])
    return None, []


def forget(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Free the bundle ``path``, or all of them without one."""
    if params.get("path") is None:
        _loaded.clear()
    else:
        _loaded.pop(params["path"], None)
    return None, []


def run_bundle(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Run the bundle ``path`` on ``inputs`` (header of `pack`; random numbers if ``fill``)."""
    runtime = _runtime(params["path"])
    header, pieces = pack(runtime.run(_inputs(runtime, params, blobs)))
    return header, pieces


def time_bundles(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Time the bundles ``paths``: in each sweep of ``orders``, a block of calls of each.

    Returns:
        path -> seconds per call of each sweep; ``load`` -> [cores that others kept busy]; ``calls`` -> all that
        each bundle was called, untimed ones too.
    """
    protocol = Protocol.from_json(params["protocol"])
    runtimes = [_runtime(p) for p in params["paths"]]
    inputs = [_inputs(r, params, blobs) for r in runtimes]
    calls = [
        _calls(r, x, protocol.min_block_ms / 1e3) for r, x in zip(runtimes, inputs, strict=True)
    ]
    for _ in range(protocol.warmup):
        for runtime, x, n in zip(runtimes, inputs, calls, strict=True):
            _block(runtime, x, n)
    samples: dict[str, list[float]] = {p: [] for p in params["paths"]}
    meter = LoadMeter()
    for order in params["orders"]:
        for i in order:
            _block(runtimes[i], inputs[i], 1)  # its weights back into the cache
            samples[params["paths"][i]].append(_block(runtimes[i], inputs[i], calls[i]))
    sweeps = [sum(order.count(i) for order in params["orders"]) for i in range(len(runtimes))]
    every = [
        _PROBES + protocol.warmup * n + s * (1 + n) for n, s in zip(calls, sweeps, strict=True)
    ]
    return {**samples, "load": [meter.others()], "calls": every}, []


def _runtime(path: str) -> Runtime:
    stamp = _stamp(path)
    if path not in _loaded or _loaded[path][0] != stamp:
        _loaded.pop(path, None)
        _loaded[path] = (stamp, Runtime(path))
    return _loaded[path][1]


def _stamp(path: str) -> tuple[int, int]:
    """What changes when a bundle is replaced by another at the same path."""
    try:
        status = os.stat(Path(path) / MANIFEST)
    except OSError:
        return (0, 0)  # opening it will say what is wrong
    return status.st_ino, status.st_mtime_ns


def _inputs(runtime: Runtime, params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Arrays:
    return runtime.example() if params["fill"] else unpack(params["inputs"], blobs)


def _block(runtime: Runtime, inputs: Arrays, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        runtime.run(inputs)
    return (time.perf_counter() - start) / calls


def _calls(runtime: Runtime, inputs: Arrays, seconds: float) -> int:
    _block(runtime, inputs, 1)
    once = _block(runtime, inputs, _PROBES - 1)
    return max(1, math.ceil(seconds / max(once, 1e-7)))
