"""ONNX Runtime: the ONNX file itself, and its dynamic int8, per channel."""

from __future__ import annotations

import sys
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.peers.convert import run


def int8(path: Path) -> None:
    prepared = path.with_name("prepared.onnx")
    quant_pre_process(path.with_name("model.onnx"), prepared)
    quantize_dynamic(prepared, path, per_channel=True, weight_type=QuantType.QInt8)
    prepared.unlink()


if __name__ == "__main__":
    run({"int8.onnx": int8}, Path(sys.argv[2]))
