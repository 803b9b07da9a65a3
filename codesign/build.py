"""Builds kernels and models to shared libraries, in worker processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import tvm
from tvm import tirx

from codesign.kernel_args import KernelArg, kernel_args
from codesign.worker import Failure, Worker
from targets.target import Target

_BATCH, _SHARE = 16, 4  # kernels of a library, at most, and before another worker is asked
_SECONDS = 30.0
_SECONDS_EACH = 5.0
_MODEL_SECONDS = 300.0


@dataclass(frozen=True)
class KernelSource:
    """A scheduled kernel to build.

    Attributes:
        name: for people; the symbol in the library is made of it.
        func: the scheduled function, static shapes.
        args: what to call it with; by default found in ``func``, better given from the function
            before scheduling.
    """

    name: str
    func: tirx.PrimFunc
    args: tuple[KernelArg, ...] | None = None


@dataclass(frozen=True)
class BuiltKernel:
    """A kernel in a library: everything a worker needs to run it."""

    library: Path
    symbol: str
    args: tuple[KernelArg, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "library": str(self.library),
            "symbol": self.symbol,
            "args": [a.to_json() for a in self.args],
        }


def build_kernels(
    workers: Sequence[Worker], kernels: Sequence[KernelSource], target: Target, folder: Path
) -> list[BuiltKernel | Failure]:
    """Build kernels, many to a library, because linking costs more than compiling.

    One that does not compile, or takes the compiler down with it, is a `Failure` in its place and
    harms no other.

    Args:
        workers: work side by side.
        folder: gets the libraries, under names of their own; must exist.
    """
    size = min(max(-(-len(kernels) // len(workers)), _SHARE), _BATCH)
    batches = [kernels[start : start + size] for start in range(0, len(kernels), size)]
    if len(batches) < 2:
        return [r for batch in batches for r in _build_batch(workers[0], batch, target, folder)]
    for worker in workers:
        worker.start()  # here: a worker dies with the thread that starts it

    def build(number: int) -> list[list[BuiltKernel | Failure]]:
        worker = workers[number]
        return [_build_batch(worker, b, target, folder) for b in batches[number :: len(workers)]]

    with ThreadPoolExecutor(len(workers)) as pool:
        shares = list(pool.map(build, range(len(workers))))
    built = [shares[i % len(workers)][i // len(workers)] for i in range(len(batches))]
    return [result for batch in built for result in batch]


def build_model(worker: Worker, module: tvm.IRModule, target: Target, out: Path) -> Path | Failure:
    """Build a lowered module with scheduled kernels to the library ``out`` for the Relax VM."""
    params = {"target": target_json(target), "out": str(out)}
    text = tvm.ir.save_json(module).encode()
    reply = worker.request("build_model", params, [text], deadline=_MODEL_SECONDS)
    return reply if isinstance(reply, Failure) else out


def target_json(target: Target) -> dict[str, Any]:
    """The TVM target as the plain JSON object that makes it again."""
    return json.loads(str(target.tvm()))


def _build_batch(
    worker: Worker, kernels: Sequence[KernelSource], target: Target, folder: Path
) -> list[BuiltKernel | Failure]:
    library = folder / f"kernels_{uuid4().hex[:12]}.so"
    symbols = [f"k{i}_{_identifier(k.name)}" for i, k in enumerate(kernels)]
    reply = worker.request(
        "build_kernels",
        {"target": target_json(target), "out": str(library), "symbols": symbols},
        [tvm.ir.save_json(k.func).encode() for k in kernels],
        deadline=_SECONDS + _SECONDS_EACH * len(kernels),
    )
    if isinstance(reply, Failure):
        if len(kernels) == 1:
            return [reply]
        middle = len(kernels) // 2
        halves = (kernels[:middle], kernels[middle:])
        return [r for half in halves for r in _build_batch(worker, half, target, folder)]
    errors = reply.result["errors"]
    return [
        Failure("error", errors[symbol])
        if symbol in errors
        else BuiltKernel(library, symbol, kernel.args or kernel_args(kernel.func))
        for symbol, kernel in zip(symbols, kernels, strict=True)
    ]


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name)[:60]
