"""Runs and times bundles, in the child."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.bundle import MANIFEST
from codesign.measurement import Protocol
from codesign.tensors import pack, unpack
from codesign.worker.place import Place, Program, place

Answer = tuple[Any, list[memoryview]]
Arrays = dict[str, NDArray[np.generic]]

_PROBES = 3
"""Calls that find out how many fill a block."""

_loaded: dict[str, tuple[tuple[int, int], Place, Program]] = {}


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
        ``samples``: path -> seconds per call of each sweep; ``load``: cores that others kept busy;
        ``story``: of the place; ``calls``: path -> all that the bundle was called, untimed ones too.
    """
    protocol = Protocol.from_json(params["protocol"])
    runtimes = [_runtime(p) for p in params["paths"]]
    inputs = [_inputs(r, params, blobs) for r in runtimes]
    calls = [
        _calls(r, x, protocol.min_block_ms / 1e3) for r, x in zip(runtimes, inputs, strict=True)
    ]
    for _ in range(protocol.warmup):
        for runtime, x, n in zip(runtimes, inputs, calls, strict=True):
            runtime.block(x, n)
    samples: dict[str, list[float]] = {p: [] for p in params["paths"]}
    meter = place().meter()
    for order in params["orders"]:
        for i in order:
            runtimes[i].block(inputs[i], 1)  # its weights back into the cache
            samples[params["paths"][i]].append(runtimes[i].block(inputs[i], calls[i]))
    every = {
        path: _PROBES + protocol.warmup * n + sum(o.count(i) for o in params["orders"]) * (1 + n)
        for i, (path, n) in enumerate(zip(params["paths"], calls, strict=True))
    }
    story = place().story()
    return {"samples": samples, "load": meter.others(), "story": story, "calls": every}, []


def _runtime(path: str) -> Program:
    stamp, where = _stamp(path), place()
    known = _loaded.get(path)
    if known is None or known[0] != stamp or known[1] is not where:
        _loaded.pop(path, None)
        _loaded[path] = (stamp, where, where.program(path))
    return _loaded[path][2]


def _stamp(path: str) -> tuple[int, int]:
    """What changes when a bundle is replaced by another at the same path."""
    try:
        status = os.stat(Path(path) / MANIFEST)
    except OSError:
        return (0, 0)  # opening it will say what is wrong
    return status.st_ino, status.st_mtime_ns


def _inputs(runtime: Program, params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Arrays:
    return runtime.example() if params["fill"] else unpack(params["inputs"], blobs)


def _calls(runtime: Program, inputs: Arrays, seconds: float) -> int:
    runtime.block(inputs, 1)
    once = runtime.block(inputs, _PROBES - 1)
    return max(1, math.ceil(seconds / max(once, 1e-7)))
