"""LiteRT: litert-torch for fp32, ai-edge-quantizer's dynamic_wi8_afp32 for int8."""

from __future__ import annotations

import sys
from pathlib import Path

import litert_torch
from ai_edge_quantizer import quantizer, recipe

from benchmarks.peers.convert import run
from benchmarks.peers.models import SUBJECTS, example


def main(model: str, folder: Path) -> None:
    module = SUBJECTS[model].build()

    def fp32(path: Path) -> None:
        names = ("input_ids", "attention_mask")
        kwargs = dict(zip(names, example(), strict=True))
        litert_torch.convert(module, sample_kwargs=kwargs).export(str(path))

    def int8(path: Path) -> None:
        work = quantizer.Quantizer(str(path.with_name("model.tflite")))
        work.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        work.quantize().export_model(str(path), overwrite=True)

    run({"model.tflite": fp32, "int8.tflite": int8}, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
