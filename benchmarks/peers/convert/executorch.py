"""ExecuTorch: XNNPACK in fp32, and with dynamic int8 by its quantizer, per channel."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
    XnnpackDynamicallyQuantizedPartitioner,
    XnnpackPartitioner,
)
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from benchmarks.peers.convert import run
from benchmarks.peers.models import SUBJECTS, as_float_mask, example


def main(model: str, folder: Path) -> None:
    module = as_float_mask(SUBJECTS[model].build())
    inputs = example(with_float_mask=True)

    def export(graph: torch.nn.Module) -> torch.export.ExportedProgram:
        with torch.no_grad():
            return torch.export.export(graph, inputs, strict=False)

    def write(program: torch.export.ExportedProgram, partitioners: list[object], to: Path) -> None:
        lowered = to_edge_transform_and_lower(program, partitioner=partitioners).to_executorch()
        to.write_bytes(lowered.buffer)

    def fp32(path: Path) -> None:
        write(export(module), [XnnpackPartitioner()], path)

    def int8(path: Path) -> None:
        config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        prepared = prepare_pt2e(export(module).module(), XNNPACKQuantizer().set_global(config))
        with torch.no_grad():
            prepared(*inputs)
        partitioners = [XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()]
        write(export(convert_pt2e(prepared)), partitioners, path)

    run({"model.pte": fp32, "int8.pte": int8}, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
