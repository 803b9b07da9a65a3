"""What everything else starts from: PyTorch's outputs, the calibration texts and the ONNX file.

Writes ``check.npz`` (inputs [N, 128] and PyTorch's fp32 ``expected`` [N, 128, C]),
``calibration.npz`` (inputs) and ``model.onnx``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.convert import run
from benchmarks.peers.models import SUBJECTS, example


def main(model: str, folder: Path) -> None:
    subject = SUBJECTS[model]
    module = subject.build()

    def check(path: Path) -> None:
        inputs = subject.check()
        with torch.inference_mode():
            expected = [
                module(torch.from_numpy(ids[None]), torch.from_numpy(mask[None])).numpy()
                for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
            ]
        arrays: dict[str, Any] = {**inputs, "expected": np.concatenate(expected)}
        np.savez(path, **arrays)

    def calibration(path: Path) -> None:
        arrays: dict[str, Any] = dict(subject.calibration())
        np.savez(path, **arrays)

    def onnx(path: Path) -> None:
        names = ["input_ids", "attention_mask"]
        torch.onnx.export(
            module, example(), path, input_names=names, output_names=["last_hidden_state"],
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip

    run({"check.npz": check, "calibration.npz": calibration, "model.onnx": onnx}, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
