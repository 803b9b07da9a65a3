"""Turning TVM's object files into a shared library, with whatever linker the machine has.

Code for this machine is linked by its own compiler. Code for another one is linked by Android's NDK where that
is installed and the code is for Android, else by a linker that takes foreign objects.

A library names the C library and that of mathematics as what it needs: kernels call memset and memcpy, which LLVM
makes of loops, and a few functions like logf, and Android's loader looks for them in what a library needs and
nowhere else. TVM's runtime is not named, since what a device calls it is not known here: it loads the library,
gives it most of its own functions by itself, and has to be there with its symbols visible for the one
(TVMFFIErrorSetRaisedFromCStrParts) that is left to the loader.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from targets.errors import TargetError
from targets.target import Target

_NATIVE = ("gcc", "cc", "clang", "ld.lld")
_CROSS = "aarch64-linux-gnu-gcc"
_NDK = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT")
_NDK_COMPILER = "TVM_NDK_CC"
_NDK_FOLDER = "toolchains/llvm/prebuilt"
_SECONDS = 120

_PAGES = ("-z", "max-page-size=65536")
"""Sections lie so that devices with pages of 4, 16 (Android 15) or 64 KiB can load them."""

_GNU, _ANDROID = ("libc.so.6", "libm.so.6"), ("libc.so", "libm.so")
"""The C library and that of mathematics, as systems call them."""


@dataclass(frozen=True)
class Linker:
    """A program that makes shared libraries.

    Attributes:
        name: what it is called.
        path: where it is.
        options: what it is told besides.
        needed: names of the libraries that the result needs, for a linker that has none of them at hand.
    """

    name: str
    path: str
    options: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()

    def command(self, output: str, objects: Sequence[str]) -> list[str]:
        """The command line that links ``objects`` into the shared library ``output``."""
        shared = ["-shared"] if self.name == "ld.lld" else ["-shared", "-fPIC"]
        return [self.path, *shared, "-o", output, *objects, *self.options]

    def __call__(self, output: str, objects: str | Sequence[str]) -> None:
        """Link; this is the ``fcompile`` of TVM's ``export_library``. Raises TargetError."""
        files = [objects] if isinstance(objects, str) else list(objects)
        with TemporaryDirectory() as folder:
            _call(self.command(output, files + self._stand_ins(folder, files)))

    def _stand_ins(self, folder: str, files: Sequence[str]) -> list[str]:
        """Libraries that only have the names of those needed: a linker reads no more of them."""
        made = [str(Path(folder, name)) for name in self.needed]
        for name, path in zip(self.needed, made, strict=True):
            _call([self.path, "-shared", "-soname", name, "-o", path, *files])
        return made


def _call(command: list[str]) -> None:
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


def find_linker(target: Target | None = None) -> Linker:
    """What links for a target, or for this machine.

    For this machine that is the first of gcc, cc, clang and ld.lld that is installed. For AArch64 elsewhere it
    is the compiler of Android's NDK if the target's triple is Android's and TVM_NDK_CC, ANDROID_NDK_HOME or
    ANDROID_NDK_ROOT say where that is, else ld.lld, else aarch64-linux-gnu-gcc.

    Raises:
        TargetError: none is installed, or the folder of the NDK has no compiler.
    """
    return find_linker_for(triple_of(target) if target else "")


def triple_of(target: Target) -> str:
    """Architecture and operating system of the code for a target, as LLVM spells them."""
    return target.triple or f"{target.architecture}-linux-gnu"


def find_linker_for(triple: str) -> Linker:
    """``find_linker`` for an LLVM triple; "" is this machine."""
    architecture, android = triple.partition("-")[0], "android" in triple
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    if not triple or (architecture == machine and not android):
        return _first(_NATIVE, "sudo apt install gcc")
    if architecture != "aarch64":
        raise TargetError(
            "nothing is known that links for another machine",
            got=triple,
            allowed=f"aarch64-linux-gnu, aarch64-linux-android, {machine}",
            next=f"build on a machine of architecture {architecture}",
        )
    if android and (compiler := _ndk_compiler(triple)) is not None:
        return Linker("clang", compiler, (*_for_compiler(_PAGES), "-lm"))
    found = _first(("ld.lld", _CROSS), "sudo apt install lld (or gcc-aarch64-linux-gnu)")
    needed = _ANDROID if android else _GNU
    if found.name == "ld.lld":
        return Linker(found.name, found.path, _PAGES, needed)
    # glibc's names would keep Android from loading it
    options = (*_for_compiler((*_PAGES, "-z", "noexecstack")), "-nostdlib" if android else "-lm")
    return Linker(found.name, found.path, options)


def _for_compiler(options: Sequence[str]) -> tuple[str, ...]:
    """Options of a linker, for the compiler that calls it."""
    return ("-Wl," + ",".join(options),)


def _first(names: Sequence[str], command: str) -> Linker:
    for name in names:
        if path := shutil.which(name):
            return Linker(name, path)
    raise TargetError(
        "no linker is installed",
        got=f"none in PATH={os.environ.get('PATH', '')}",
        allowed=", ".join(names),
        next=command,
    )


def _ndk_compiler(triple: str) -> str | None:
    """The compiler of Android's NDK, for the API level of the triple or the lowest; None if no NDK is set."""
    if compiler := os.environ.get(_NDK_COMPILER):
        return compiler
    home = next((os.environ[name] for name in _NDK if os.environ.get(name)), None)
    if home is None:
        return None
    asked = re.search(r"android(\d+)$", triple)
    level = asked[1] if asked else r"\d+"
    found: list[tuple[int, str]] = []
    for path in Path(home, _NDK_FOLDER).glob("*/bin/aarch64-linux-android*-clang"):
        if match := re.fullmatch(rf"aarch64-linux-android({level})-clang", path.name):
            found.append((int(match[1]), str(path)))
    if not found:
        raise TargetError(
            "the Android NDK has no compiler for this target",
            got=f"{triple}; nothing fits in {Path(home, _NDK_FOLDER)}",
            allowed="a folder with toolchains/llvm/prebuilt/*/bin/aarch64-linux-android<API>-clang",
            next=f"set {_NDK[0]} to the folder of an NDK, or {_NDK_COMPILER} to its compiler",
        )
    return min(found)[1]


def export(lib: Exportable, path: Path | str, target: Target | None = None) -> Path:
    """Write a module compiled for ``target``, or this machine, as the shared library ``path``; return the path."""
    made = Path(path)
    lib.export_library(str(made), fcompile=find_linker(target))
    return made
