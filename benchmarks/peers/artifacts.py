"""The files of each contestant: converted in the peer's environment, and kept."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import (
    CONVERTERS,
    HOME,
    REFERENCE,
    ROOT,
    Environment,
    EnvironmentFailedError,
    make,
    variables,
)

DEADLINE_S = 1800
HERE = Path(__file__).parent
SOURCES = (HERE / "models.py", ROOT / "examples" / "minilm_retrieval.py")
WEIGHTS_BESIDE = (".xml", ".param")  # OpenVINO's and ncnn's graphs; their weights are in a .bin
TRIALS = 16  # schedules that we try for each kernel


@dataclass(frozen=True)
class Artifact:
    """A contestant's file or folder, and the seconds that making it took."""

    path: Path
    seconds: float

    @property
    def size_bytes(self) -> int:
        """All of it: a folder's files, or the file with the weights that lie beside it."""
        if self.path.is_dir():
            return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())
        parts = [self.path]
        if self.path.suffix in WEIGHTS_BESIDE:
            parts.append(self.path.with_suffix(".bin"))
        return sum(part.stat().st_size for part in parts)


def reference(model: str) -> dict[str, Artifact]:
    """PyTorch's outputs, the calibration texts and the ONNX file, by file name."""
    return _convert("reference", model, REFERENCE)


def converted(runtime: str, model: str) -> dict[str, Artifact]:
    """What the peer's own tools make of the model, by file name; what failed is missing."""
    return _convert(runtime, model, CONVERTERS[runtime])


OURS = {
    "fp32": (),
    "int8": ("--int8",),
    "int8 attention": ("--int8", "--int8-attention"),
}
"""Our own rows: what ``codesign compile`` is told besides model and threads."""


def our_bundles(model: str, threads: int) -> dict[str, Artifact]:
    """Bundles of ours, by the dtype in the table: the model compiled, not compressed."""
    source = {
        "minilm": "examples/minilm_retrieval.py:model",
        "bert-base": "benchmarks/peers/models.py:bert_base",
    }[model]
    made: dict[str, Artifact] = {}
    for dtype, flags in OURS.items():
        folder = HOME / "artifacts" / model / f"codesign-{dtype.replace(' ', '-')}-{threads}"
        command = [
            *(sys.executable, "-m", "codesign", "compile", source, "--target", "host"),
            *("--threads", str(threads), "--trials", str(TRIALS), "-o", str(folder), *flags),
        ]
        start = time.perf_counter()
        _run(command, folder.name, None)
        made[dtype] = Artifact(folder, time.perf_counter() - start)
    return made


def _convert(step: str, model: str, environment: Environment) -> dict[str, Artifact]:
    folder = HOME / "artifacts" / model
    note = folder / f"{step}.json"
    key = _key(step, environment)
    kept = json.loads(note.read_text()) if note.is_file() else {}
    if kept.get("key") != key:
        make(environment)
        folder.mkdir(parents=True, exist_ok=True)
        module = f"benchmarks.peers.convert.{step}"
        command = [str(environment.python), "-m", module, model, str(folder)]
        output = _run(command, f"convert-{step}-{model}", environment)
        kept = {"key": key, "seconds": json.loads(output.strip().splitlines()[-1])}
        note.write_text(json.dumps(kept))
    return {name: Artifact(folder / name, seconds) for name, seconds in kept["seconds"].items()}


def _key(step: str, environment: Environment) -> str:
    """Changes with everything that the files depend on."""
    sources = (*SOURCES, HERE / "convert" / f"{step}.py", HERE / "convert" / "reference.py")
    text = "\n".join((sys.version, REFERENCE.pins, environment.pins))
    return hashlib.sha256(b"".join((text.encode(), *(s.read_bytes() for s in sources)))).hexdigest()


def _run(command: list[str], name: str, environment: Environment | None) -> str:
    log = HOME / f"{name}.log"
    HOME.mkdir(exist_ok=True)
    with log.open("w") as err:
        done = subprocess.run(
            command, cwd=ROOT, env=variables(environment), stdout=subprocess.PIPE, stderr=err,
            text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        err.write(done.stdout)
    if done.returncode:
        raise EnvironmentFailedError(f"{' '.join(command[:4])} failed, see {log}")
    return done.stdout
