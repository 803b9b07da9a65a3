"""ExecuTorch's runtime with its XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime
from numpy.typing import NDArray

from benchmarks.peers.sessions import Inputs, float_mask


class Session:
    """A ``.pte`` file, loaded."""

    def __init__(self, path: Path, threads: int, options: Mapping[str, object]) -> None:
        portable_lib._unsafe_reset_threadpool(threads)
        self._program = Runtime.get().load_program(path)  # the method does not keep it alive
        self._forward = self._program.load_method("forward")

    def prepare(self, inputs: Inputs) -> list[torch.Tensor]:
        ids = torch.from_numpy(np.ascontiguousarray(inputs["input_ids"]))
        return [ids, torch.from_numpy(float_mask(inputs))]

    def run(self, prepared: list[torch.Tensor]) -> NDArray[np.float32]:
        return self._forward.execute(prepared)[0].numpy()
