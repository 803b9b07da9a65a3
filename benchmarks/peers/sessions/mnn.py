"""MNN's CPU backend; 8-bit weights with dynamic quantisation where the CPU has it (memory low)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from MNN import expr, nn
from numpy.typing import NDArray

from benchmarks.peers.sessions import Inputs

NAMES = ["input_ids", "attention_mask"]


class Session:
    """An ``.mnn`` file, loaded."""

    def __init__(self, path: Path, threads: int, options: Mapping[str, object]) -> None:
        memory = str(options.get("memory", "normal"))
        config = {"backend": "CPU", "numThread": threads, "precision": "high", "memory": memory}
        self._runtime = nn.create_runtime_manager((config,))
        self._net = nn.load_module_from_file(
            str(path), NAMES, ["last_hidden_state"], runtime_manager=self._runtime
        )

    def prepare(self, inputs: Inputs) -> list[Any]:
        return [_variable(inputs[name].astype(np.int32)) for name in NAMES]

    def run(self, prepared: list[Any]) -> NDArray[np.float32]:
        return np.array(self._net.forward(prepared)[0].read())


def _variable(value: NDArray[np.int32]) -> Any:
    variable = expr.placeholder(list(value.shape), expr.NCHW, expr.int)
    variable.write(value)
    return variable
