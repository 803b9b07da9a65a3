"""ncnn: fp32 by pnnx. It has no int8 for attention."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pnnx

from benchmarks.peers.convert import run
from benchmarks.peers.models import SUBJECTS, as_float_mask, example


def main(model: str, folder: Path) -> None:
    module = as_float_mask(SUBJECTS[model].build())
    ids, bias = example(with_float_mask=True)

    def fp32(path: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            os.chdir(work)  # pnnx leaves a dozen files where it stands
            pnnx.export(module, "model.pt", (ids.int(), bias), fp16=False)
            for part in (path, path.with_suffix(".bin")):
                shutil.move(part.name, part)
            os.chdir(folder)

    run({"model.ncnn.param": fp32}, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
