"""Says whether this machine can do the job, and the command that mends what it lacks.

Nothing here imports TVM in this process: a wrong version of it crashes without a message.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from codesign.versions import INSTALL, PINNED, installed
from targets.cpu import this_processor
from targets.errors import TargetError
from targets.target import host

Status = Literal["ok", "warn", "fail"]

_PYTHON = (3, 10)
_TORCH = "2.13.0"
_PACKAGES = (
    "numpy", "scipy", "onnx", "onnxruntime", "safetensors", "networkx", "psutil", "cloudpickle",
    "tornado", "xgboost", "typer", "rich", "matplotlib",
)  # fmt: skip
_COMPILERS = ("g++", "gcc", "clang++", "clang", "cc", "c++")
_GIB = 1 << 30
_BUSY_CORES = 0.3
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what.
        status: ``ok``, ``warn`` (works, but worse or less precisely) or ``fail`` (will not work).
        found: what is there.
        mend: the command or step that would make it ok; "" if it is.
    """

    name: str
    status: Status
    found: str
    mend: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(folder: Path | str = ".") -> list[Check]:
    """All checks; ``folder`` is where results would be written. Takes a few seconds."""
    checks = [_guarded(check) for check in (_python, _tvm, _tvm_ffi, _torch, _packages, _linker)]
    checks += [_guarded(check) for check in (_processor, _vnni, _half, _load, _memory)]
    checks.append(_guarded(lambda: _disk(Path(folder)), "disk"))
    sound = all(c.status != "fail" for c in checks if c.name in ("tvm", "tvm-ffi", "linker"))
    if sound:
        checks.append(_guarded(_kernel, "kernel"))
    else:
        checks.append(Check("kernel", "fail", "not tried", "mend the failed checks above first"))
    return checks


def healthy(checks: list[Check]) -> bool:
    """True if nothing failed; warnings are allowed."""
    return all(check.status != "fail" for check in checks)


def _guarded(check: Callable[[], Check], name: str = "") -> Check:
    """A check that raises has failed: the doctor himself must not fall ill."""
    try:
        return check()
    except Exception as error:
        name = name or check.__name__.strip("_").replace("_", "-")
        return Check(name, "fail", f"{type(error).__name__}: {error}")


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info >= _PYTHON:
        return Check("python", "ok", found)
    needed = ".".join(map(str, _PYTHON))
    return Check("python", "fail", found, f"install Python {needed} or newer")


def _tvm() -> Check:
    return _pinned("tvm", "apache-tvm", PINNED["apache-tvm"], INSTALL)


def _tvm_ffi() -> Check:
    return _pinned("tvm-ffi", "apache-tvm-ffi", PINNED["apache-tvm-ffi"], INSTALL)


def _torch() -> Check:
    return _pinned("torch", "torch", _TORCH, f"pip install torch=={_TORCH}", "warn")


def _pinned(name: str, package: str, version: str, mend: str, otherwise: Status = "fail") -> Check:
    found = installed(package)
    if found is None:
        return Check(name, "fail", f"{package} is not installed", mend)
    if found.split("+")[0] != version:
        return Check(name, otherwise, f"{package} {found}, made for {version}", mend)
    return Check(name, "ok", found)


def _packages() -> Check:
    missing = [p for p in _PACKAGES if installed(p) is None]
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", "pip install -e .")
    return Check("packages", "ok", f"all {len(_PACKAGES)} there")


def _linker() -> Check:
    chosen = os.environ.get("CXX") or os.environ.get("CC")
    found = [path for c in ([chosen] if chosen else _COMPILERS) if c and (path := shutil.which(c))]
    if found:
        return Check("linker", "ok", found[0])
    told = f"{chosen} is not there" if chosen else f"none of {', '.join(_COMPILERS)}"
    mend = "unset CXX CC" if chosen else "apt-get install g++"
    return Check("linker", "fail", told, mend)


def _processor() -> Check:
    cpu = this_processor()
    try:
        target = host()
    except TargetError as error:
        return Check(
            "processor", "fail", error.got, "use x86-64 with SSE 4.2 or newer, or 64-bit ARM"
        )
    found = f"{cpu.model}: target {target.name}, {target.vector_bits}-bit vectors"
    if target.architecture == "x86_64" and target.vector_bits < 256:
        return Check("processor", "warn", found, "kernels are made for AVX2 and AVX-512")
    return Check("processor", "ok", found)


def _vnni() -> Check:
    target = host()
    if target.dot:
        tiles = ", tiles of int8 and bfloat16 (AMX)" if target.has_tiles else ""
        return Check("int8", "ok", f"int8 dot products ({target.dot.upper()}){tiles}")
    return Check(
        "int8",
        "warn",
        "no dot products of int8",
        "int8 gains little here: compare with float32 sparsity",
    )


def _half() -> Check:
    target = host()
    products = [
        ("bfloat16 dot products", target.has_bf16),
        ("bfloat16 tiles (AMX)", target.has_tiles),
        ("float16 arithmetic", target.has_fp16),
    ]
    found = ", ".join(name for name, there in products if there)
    return Check("half precision", "ok", found or "none: bf16 and fp16 are not offered")


def _load() -> Check:
    psutil.cpu_percent()
    busy = psutil.cpu_percent(interval=0.3) / 100 * (os.cpu_count() or 1)
    found = f"{this_processor().cores} processors, {busy:.1f} busy"
    if busy > _BUSY_CORES:
        return Check("load", "warn", found, "stop other programs: they spoil measurements")
    return Check("load", "ok", found)


def _memory() -> Check:
    free = psutil.virtual_memory().available / _GIB
    found = f"{free:.1f} GiB available"
    if free < 2:
        return Check("memory", "fail", found, "free memory: at least 2 GiB, better 4 GiB")
    if free < 4:
        return Check("memory", "warn", found, "free memory: better 4 GiB")
    return Check("memory", "ok", found)


def _disk(folder: Path) -> Check:
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        told = f"{folder.resolve()}: {error.strerror or error}"
        return Check("disk", "fail", told, "choose an output folder that can be written")
    free = shutil.disk_usage(folder).free / _GIB
    found = f"{folder.resolve()}: {free:.1f} GiB free"
    if free < 2:
        return Check("disk", "warn", found, "free some space: at least 2 GiB")
    return Check("disk", "ok", found)


def _kernel() -> Check:
    """Build a kernel in a worker, run it, compare it with NumPy, time it."""
    import numpy as np

    from codesign.build import KernelSource
    from codesign.measure import Rig
    from codesign.measurement import Protocol
    from codesign.reference_kernel import INNER, OUTPUTS, ROWS, reference_kernel
    from codesign.tensors import pack
    from codesign.worker import Failure

    with Rig(host(), Protocol(repeats=3)) as rig:
        built = rig.build([KernelSource("doctor", reference_kernel())])[0]
        if isinstance(built, Failure):
            return Check("kernel", "fail", f"does not build: {built}", "codesign doctor --json")
        rng = np.random.default_rng(0)
        x = rng.standard_normal((ROWS, INNER)).astype(np.float32)
        w = rng.standard_normal((OUTPUTS, INNER)).astype(np.float32)
        packed = w.reshape(-1, built.args[1].shape[2], INNER).transpose(0, 2, 1)
        _, blobs = pack({"x": x, "w": packed})
        reply = rig.worker.request("run_kernel", built.to_json(), blobs, deadline=30)
        if isinstance(reply, Failure):
            return Check("kernel", "fail", f"does not run: {reply}", INSTALL)
        y = np.frombuffer(reply.blobs[0], np.float32).reshape(ROWS, OUTPUTS)
        exact = x.astype(np.float64) @ w.T.astype(np.float64)
        error = float(np.abs(y - exact).max() / np.abs(exact).max())
        if not error < _TOLERANCE:
            return Check("kernel", "fail", f"computes wrong numbers: error {error:.1g}", INSTALL)
        measurement = rig.time(built).measurement
    speed = 2e-9 * ROWS * INNER * OUTPUTS / measurement.seconds
    found = f"builds, runs, right to {error:.0e}, {speed:.0f} GFLOP/s on 1 thread"
    return Check("kernel", "ok", found)
