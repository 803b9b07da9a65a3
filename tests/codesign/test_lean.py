"""A process that only runs bundles does without PyTorch."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
{first}
from codesign.lean import import_tvm
import_tvm()
print("torch" in sys.modules, "tvm" in sys.modules)
import numpy, torch, tvm
print(torch.from_dlpack(tvm.runtime.tensor(numpy.ones(3, "float32"))).sum().item())
"""


def output(first: str) -> list[str]:
    program = PROGRAM.format(first=first)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:2]


def test_torch_stays_out_and_may_come_later() -> None:
    assert output("") == ["False True", "3.0"]


def test_torch_that_is_there_stays() -> None:
    assert output("import torch") == ["True True", "3.0"]
