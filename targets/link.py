"""Turning TVM's object files into a shared library, with whatever linker the machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from targets.errors import TargetError

_CANDIDATES = ("gcc", "cc", "clang", "ld.lld")
_SECONDS = 120


@dataclass(frozen=True)
class Linker:
    """A program that makes shared libraries.

    Attributes:
        name: what it is called.
        path: where it is.
    """

    name: str
    path: str

    def command(self, output: str, objects: Sequence[str]) -> list[str]:
        """The command line that links ``objects`` into the shared library ``output``."""
        options = ["-shared"] if self.name == "ld.lld" else ["-shared", "-fPIC"]
        return [self.path, *options, "-o", output, *objects]

    def __call__(self, output: str, objects: str | Sequence[str]) -> None:
        """Link; this is the ``fcompile`` of TVM's ``export_library``. Raises TargetError."""
        files = [objects] if isinstance(objects, str) else list(objects)
        command = self.command(output, files)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TargetError("linking failed", got=f"{' '.join(command)}: {error}") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise TargetError(
                "linking failed",
                got=f"{' '.join(command)}: {said[-2000:]}",
                next="codesign doctor",
            )


class Exportable(Protocol):
    """What TVM compiles to: it can write itself as a library."""

    def export_library(self, file_name: str, *, fcompile: Linker) -> object: ...


def find_linker() -> Linker:
    """The first of gcc, cc, clang and ld.lld that is installed; raises TargetError if none is."""
    for name in _CANDIDATES:
        if path := shutil.which(name):
            return Linker(name, path)
    raise TargetError(
        "no linker is installed",
        got=f"none in PATH={os.environ.get('PATH', '')}",
        allowed=", ".join(_CANDIDATES),
        next="sudo apt install gcc",
    )


def export(lib: Exportable, path: Path | str) -> Path:
    """Write a compiled module as the shared library ``path``; return the path."""
    target = Path(path)
    lib.export_library(str(target), fcompile=find_linker())
    return target
