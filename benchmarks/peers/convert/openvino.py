"""OpenVINO: its own format; static int8 by NNCF on the calibration texts; int8 weights for its
dynamic quantisation."""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino as ov

from benchmarks.peers.convert import run


def fp32(path: Path) -> None:
    ov.save_model(ov.convert_model(path.with_name("model.onnx")), path, compress_to_fp16=False)


def static(path: Path) -> None:
    texts = dict(np.load(path.with_name("calibration.npz")))
    count = len(texts["input_ids"])
    items = [{name: rows[i : i + 1] for name, rows in texts.items()} for i in range(count)]
    quantized = nncf.quantize(
        ov.Core().read_model(path.with_name("model.xml")),
        nncf.Dataset(items),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=count,
    )
    ov.save_model(quantized, path, compress_to_fp16=False)


def weights8(path: Path) -> None:
    model = ov.Core().read_model(path.with_name("model.xml"))
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    ov.save_model(compressed, path, compress_to_fp16=False)


if __name__ == "__main__":
    run({"model.xml": fp32, "static.xml": static, "weights8.xml": weights8}, Path(sys.argv[2]))
