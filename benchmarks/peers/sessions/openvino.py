"""OpenVINO's CPU plugin, one stream; the options are its own configuration keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from benchmarks.peers.sessions import Inputs


class Session:
    """An ``.xml`` file, compiled for the CPU."""

    def __init__(self, path: Path, threads: int, options: Mapping[str, object]) -> None:
        config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, **options}
        self._request = ov.Core().compile_model(str(path), "CPU", config).create_infer_request()

    def prepare(self, inputs: Inputs) -> dict[str, NDArray[np.int64]]:
        return dict(inputs)

    def run(self, prepared: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        return self._request.infer(prepared, share_inputs=True)[0]
