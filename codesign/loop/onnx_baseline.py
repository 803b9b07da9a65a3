"""ONNX Runtime as a yardstick: in a process of its own, timed in blocks between ours.

Run as a program, this file is that process: it reads a number of calls per line and answers with
the seconds they took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]
_START_SECONDS = 120.0


class OnnxBaseline:
    """A model in ONNX Runtime, fp32, on a given number of threads.

    Args:
        onnx: the model.
        inputs: what it is run on.
        threads: intra-op threads.
        folder: for a file with the inputs.

    Raises:
        RuntimeError: ONNX Runtime cannot load or run it.
    """

    def __init__(self, onnx: Path, inputs: Arrays, threads: int, folder: Path) -> None:
        given = folder / "baseline_inputs.npz"
        np.savez(given, **dict(inputs))  # type: ignore[arg-type]
        command = [sys.executable, "-m", __name__, str(onnx), str(given), str(threads)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        hello = self._read()
        if "version" not in hello:
            raise RuntimeError(hello.get("error", "no answer"))
        self.version = str(hello["version"])

    def seconds(self, calls: int) -> float:
        """Seconds per call over a block of calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        return float(str(self._read()["seconds"]))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, text = self._process.communicate(timeout=_START_SECONDS)
            return {"error": (text or "it ended").strip().splitlines()[-1]}
        found: dict[str, object] = json.loads(line)
        return found


def serve(onnx: str, given: str, threads: int) -> None:
    """The process: load, warm up, then time what each line asks for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    with np.load(given, allow_pickle=False) as arrays:
        names = [i.name for i in session.get_inputs()]
        inputs = {n: arrays[k] for n, k in zip(names, _match(names, list(arrays)), strict=True)}
    for _ in range(3):
        session.run(None, inputs)
    print(json.dumps({"version": onnxruntime.__version__}), flush=True)
    for line in sys.stdin:
        calls = int(line)
        start = time.perf_counter()
        for _ in range(calls):
            session.run(None, inputs)
        print(json.dumps({"seconds": (time.perf_counter() - start) / calls}), flush=True)


def _match(wanted: list[str], given: list[str]) -> list[str]:
    """Names of the given arrays in the order of the session's inputs."""
    return wanted if set(wanted) == set(given) else given


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
