"""A contestant's process: ``python -m benchmarks.peers.worker``, one JSON request a line on
standard input, one JSON answer a line on standard output.

Requests: ``load`` (runtime, path, threads, options, data), ``block`` (seconds, calls), ``check``,
each with its name under ``do``. A failed request answers ``{"error": text}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.sessions import LoadedModel
from benchmarks.peers.statistics import output_error

WARM_UPS = 2  # calls before each block: the caches hold what another contestant left


class Worker:
    """One loaded model and the data it is checked with."""

    def load(
        self, runtime: str, path: str, threads: int, options: dict[str, Any], data: str
    ) -> Any:
        """Import the runtime, load the model, run it once; seconds and peak memory in MB."""
        self.data = data
        module = importlib.import_module(f"benchmarks.peers.sessions.{runtime}")
        imported = peak_memory_mb()
        start = time.perf_counter()
        self.session: LoadedModel = module.Session(Path(path), threads, options)
        seconds = time.perf_counter() - start
        with np.load(data) as arrays:
            first = {name: arrays[name][:1] for name in ("input_ids", "attention_mask")}
        self.prepared = self.session.prepare(first)
        self.session.run(self.prepared)
        return {
            "load_s": seconds,
            "import_memory_mb": imported,
            "peak_memory_mb": peak_memory_mb(),
        }

    def block(self, seconds: float, calls: int) -> Any:
        """Milliseconds of each call: at least ``calls``, and for at least ``seconds``."""
        for _ in range(WARM_UPS):
            self.session.run(self.prepared)
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < calls or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            self.session.run(self.prepared)
            times.append((time.perf_counter() - start) * 1e3)
        return {"ms": times}

    def check(self) -> Any:
        """The outputs' error against PyTorch fp32 on every input of the check."""
        with np.load(self.data) as arrays:
            ids, mask, expected = (arrays[n] for n in ("input_ids", "attention_mask", "expected"))
        got = [
            np.array(self.session.run(self.session.prepare(one))).reshape(expected[:1].shape)
            for one in (
                {"input_ids": ids[i : i + 1], "attention_mask": mask[i : i + 1]}
                for i in range(len(ids))
            )
        ]
        return output_error(np.concatenate(got), expected, mask)


def peak_memory_mb() -> float:
    """The most physical memory this process ever held (VmHWM), in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def serve() -> None:
    """Answer requests until the input ends. Whatever a runtime prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    actions: dict[str, Callable[..., Any]] = {
        "load": worker.load,
        "block": worker.block,
        "check": worker.check,
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = actions[request.pop("do")](**request)
        except Exception as error:  # a runtime may raise anything; the benchmark goes on without it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
