"""LiteRT's interpreter; its XNNPACK delegate is on by default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from benchmarks.peers.sessions import Inputs


class Session:
    """A ``.tflite`` file, loaded and allocated."""

    def __init__(self, path: Path, threads: int, options: Mapping[str, object]) -> None:
        self._model = Interpreter(model_path=str(path), num_threads=threads)
        self._model.allocate_tensors()
        signature = self._model.get_signature_runner()
        details = signature.get_input_details()
        self._slots = {n: (d["index"], d["dtype"]) for n, d in details.items()}
        self._output = self._model.get_output_details()[0]["index"]

    def prepare(self, inputs: Inputs) -> list[tuple[int, NDArray[np.generic]]]:
        return [(index, inputs[name].astype(dtype)) for name, (index, dtype) in self._slots.items()]

    def run(self, prepared: list[tuple[int, NDArray[np.generic]]]) -> NDArray[np.float32]:
        for index, value in prepared:
            self._model.set_tensor(index, value)
        self._model.invoke()
        return self._model.get_tensor(self._output)
