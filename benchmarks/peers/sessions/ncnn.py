"""ncnn's CPU backend in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ncnn
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.sessions import Inputs, float_mask


class Session:
    """A ``.ncnn.param`` file and the ``.ncnn.bin`` beside it, loaded."""

    def __init__(self, path: Path, threads: int, options: Mapping[str, object]) -> None:
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        self._net.opt.use_vulkan_compute = False
        for flag in ("use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(self._net.opt, flag, False)
        weights = path.with_suffix(".bin")
        if self._net.load_param(str(path)) or self._net.load_model(str(weights)):
            raise RuntimeError(f"ncnn cannot load {path}")

    def prepare(self, inputs: Inputs) -> list[ncnn.Mat]:
        ids, bias = inputs["input_ids"][0].astype(np.int32), float_mask(inputs)[0, 0]
        # A Mat does not keep its array alive, so the arrays have names until the copies exist.
        return [ncnn.Mat(ids).clone(), ncnn.Mat(bias).clone()]

    def run(self, prepared: list[ncnn.Mat]) -> NDArray[np.float32]:
        with self._net.create_extractor() as extractor:
            for position, value in enumerate(prepared):
                extractor.input(f"in{position}", value)
            return np.array(extractor.extract("out0")[1])[None]
