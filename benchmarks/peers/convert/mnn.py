"""MNN: its converter on the ONNX file, in fp32 with fused attention and with 8-bit weights.

The converter's native module is called: importing ``MNN.tools`` would run pip through a shell.
"""

from __future__ import annotations

import sys
from pathlib import Path

import _tools

from benchmarks.peers.convert import run


def convert(path: Path, *flags: str) -> None:
    source = str(path.with_name("model.onnx"))
    names = ("-f", "ONNX", "--modelFile", source, "--MNNModel", str(path), "--bizCode", "peers")
    _tools.mnnconvert(["mnnconvert", *names, *flags])
    if not path.is_file():
        raise RuntimeError("mnnconvert wrote no file")


def fp32(path: Path) -> None:
    convert(path, "--transformerFuse")


def int8(path: Path) -> None:
    convert(path, "--weightQuantBits", "8", "--weightQuantAsymmetric", "0")


if __name__ == "__main__":
    run({"model.mnn": fp32, "int8.mnn": int8}, Path(sys.argv[2]))
