"""ONNX Runtime's CPU provider, with its defaults except for the number of threads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.peers.sessions import Inputs


class Session:
    """An ``.onnx`` file, loaded."""

    def __init__(self, path: Path, threads: int, options: Mapping[str, object]) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(path), settings, providers=providers)

    def prepare(self, inputs: Inputs) -> dict[str, NDArray[np.int64]]:
        return dict(inputs)

    def run(self, prepared: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        return self._session.run(None, prepared)[0]
