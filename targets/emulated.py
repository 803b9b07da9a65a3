"""Running one kernel for AArch64 on an emulated processor: for what it computes, never for its time.

The kernel's object file is linked with a small program (``emulated.c``) that stands for TVM's runtime, and
QEMU runs that; nothing else of the device is there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from targets.errors import TargetError

if TYPE_CHECKING:
    from tvm.runtime import Module

Array = NDArray[np.generic]

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
PACKAGES = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"
"""What has them in Debian."""

_SECONDS = 120
_PROGRAM = Path(__file__).with_suffix(".c")
_FAILURES = {2: "its files are unreadable", 3: "it raised", 4: "it wrote beyond an array"}
_CODES = {"i": 0, "u": 1, "f": 2}  # DLPack's, of NumPy's kinds


def lacking() -> str | None:
    """What this machine lacks to emulate AArch64, with the command that mends it; None if nothing."""
    absent = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
    return f"no {' and no '.join(absent)}: apt install {PACKAGES}" if absent else None


def run_emulated(library: Module, arrays: Sequence[Array]) -> list[Array]:
    """All arguments after one call of the kernel ``main`` of a module compiled for AArch64.

    Args:
        library: what ``tvm.compile(...).mod`` is.
        arrays: inputs, then outputs, of 8, 16, 32 or 64 bits an element; outputs hold what the kernel finds.

    Raises:
        TargetError: a tool is absent, or the kernel failed, or wrote beyond an array.
    """
    if (absent := lacking()) is not None:
        raise TargetError("AArch64 cannot be emulated", got=absent)
    given = [np.asarray(a, order="C") for a in arrays]
    with TemporaryDirectory() as folder:
        made, program, file, results = (
            Path(folder, name) for name in ("kernel.o", "kernel", "arguments", "results")
        )
        library.write_to_file(str(made))
        _call([COMPILER, "-static", *_runtime(), str(made), "-lm", "-o", str(program)])
        file.write_bytes(_packed(given))
        _call([EMULATOR, "-cpu", "max", str(program), str(file), str(results)])
        data = results.read_bytes()
    ends = np.cumsum([a.nbytes for a in given])
    return [
        np.frombuffer(data, a.dtype, a.size, end - a.nbytes).reshape(a.shape)
        for a, end in zip(given, ends, strict=True)
    ]


@cache
def _folder() -> TemporaryDirectory[str]:
    """Where what all programs share lies until this process ends."""
    return TemporaryDirectory(prefix="codesign-emulated-")


@cache
def _runtime() -> list[str]:
    """The object file that stands for TVM's runtime."""
    from tvm_ffi import libinfo

    made = str(Path(_folder().name, "runtime.o"))
    folders = libinfo.find_include_path(), libinfo.find_dlpack_include_path()
    include = [f"-I{folder}" for folder in folders]
    _call(
        [COMPILER, "-c", "-O1", "-Wall", "-Wextra", "-Werror", *include, str(_PROGRAM), "-o", made]
    )
    return [made]


def _packed(arrays: Sequence[Array]) -> bytes:
    """The file of arguments that the program reads."""
    parts = [np.int64(len(arrays)).tobytes()]
    for a in arrays:
        head = [_CODES[a.dtype.kind], 8 * a.itemsize, a.ndim, *a.shape]
        parts += [np.array(head, np.int64).tobytes(), a.tobytes()]
    return b"".join(parts)


def _call(command: list[str]) -> None:
    """Run a command to its end; raises TargetError with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise TargetError(
            "an emulated kernel took too long", got=f"{_SECONDS} s: {command[0]}"
        ) from error
    if done.returncode:
        why = _FAILURES.get(done.returncode, f"exit status {done.returncode}")
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise TargetError("an emulated kernel failed", got=f"{command[0]}: {why}. {said}")
