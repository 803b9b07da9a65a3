"""``codesign devices opencl``: TVM's OpenCL runtime for this device, without building TVM.

TVM's wheel has the generator of OpenCL C, but not the runtime that starts kernels. That is a library of its
own which TVM loads beside itself: three files of its sources, compiled against the headers and libraries of
the installed wheel. ``python -m codesign.devices.opencl`` is the same on boards without the packages of
`codesign`: it needs TVM, a C++ compiler and the standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from codesign.devices import opencl_driver, opencl_runtime
from codesign.errors import UserError
from codesign.versions import TVM, require

CLONE = (
    f"git clone --depth 1 --branch v{TVM} --recurse-submodules=3rdparty/OpenCL-Headers"
    " --shallow-submodules https://github.com/apache/tvm"
)
"""How the sources of the installed version are had."""

_RUNTIME = Path("src/backend/opencl/runtime")
_INTERFACE = (
    "runtime/device_api.h", "runtime/tensor.h", "runtime/timer.h", "runtime/memory/memory_manager.h",
)  # fmt: skip
_COMPILERS = ("g++", "clang++", "c++")
_BUILD_SECONDS, _CHECK_SECONDS = 1800.0, 120.0
_DRIVERS = (
    "Debian, Ubuntu, Armbian: sudo apt install ocl-icd-libopencl1, and the driver of the GPU:"
    " mesa-opencl-icd, or Mali's from the maker of the board; for a processor: pocl-opencl-icd."
    " One in another place: --driver FILE"
)


def make(
    source: Path | None,
    headers: Path | None = None,
    driver: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Build the runtime, see that it finds a device and keeps what is written there, and put it into the cache.

    Args:
        source: a checkout of apache/tvm at the version of the wheel.
        headers: folder with ``CL/cl.h``; None: the checkout's, or the system's.
        driver: the OpenCL library; None: the system's.
        say: is told what is done.

    Returns:
        ``library`` and ``device`` (see `opencl_driver.devices`).

    Raises:
        UserError: what lacks, and how it is had.
    """
    require()
    compiler = find_compiler()
    sources = check_source(source)
    tvm, ffi = _package("tvm"), _package("tvm_ffi")
    _agree(sources, tvm)
    folder = find_headers(sources, headers)
    driver_file = find_driver(driver)
    library = opencl_runtime.cached()
    library.parent.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=library.parent.parent, prefix=".new-") as scratch:
        new = Path(scratch, "runtime")
        new.mkdir(mode=0o700)
        (new / opencl_driver.LINK).symlink_to(driver_file)
        say(f"compiling {sources / _RUNTIME} with {compiler}")
        command = [compiler, *_arguments(sources, tvm, ffi, folder, Path(scratch, "sources"))]
        _run_compiler([*command, "-o", str(new / opencl_runtime.NAME)])
        (new / opencl_runtime.NAME).chmod(0o700)
        device = _checked(new / opencl_runtime.NAME)
        shutil.rmtree(library.parent, ignore_errors=True)
        new.rename(library.parent)
    return {"library": str(library), "device": device}


def find_compiler() -> str:
    """A C++ compiler: ``$CXX``, or the first of the usual ones. Raises UserError."""
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else _COMPILERS:
        if path := shutil.which(name):
            return path
    raise UserError(
        "no C++ compiler is here",
        got=f"CXX={wanted}" if wanted else "",
        allowed=", ".join(_COMPILERS),
        next="sudo apt install g++",
    )


def check_source(source: Path | None) -> Path:
    """The checkout, if it is one of TVM. Raises UserError."""
    if source is not None and (source / _RUNTIME / "opencl_device_api.cc").is_file():
        return source.resolve()
    raise UserError(
        "TVM's sources are needed once: the wheel has no runtime for OpenCL"
        if source is None
        else "this is no checkout of TVM",
        got="no --source" if source is None else f"{source}: no {_RUNTIME}/opencl_device_api.cc",
        allowed=f"a checkout of apache/tvm at v{TVM}",
        next=f"{CLONE} && codesign devices opencl --source tvm",
    )


def _package(name: str) -> Path:
    """Folder of an installed package, which is not imported."""
    spec = find_spec(name)
    assert spec is not None  # `require` has seen it
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def _agree(source: Path, tvm: Path) -> None:
    """Raise UserError unless the sources were written for the interface of the installed wheel."""
    differ = []
    for name in _INTERFACE:
        here, there = tvm / "include/tvm" / name, source / "include/tvm" / name
        if not here.is_file():
            raise UserError(
                "the headers of TVM are not installed",
                got=f"no {here}",
                next=f"pip install --force-reinstall --no-deps apache-tvm=={TVM}",
            )
        if not there.is_file() or there.read_bytes() != here.read_bytes():
            differ.append(name)
    if differ:
        raise UserError(
            "these sources are of another version of TVM",
            got=f"{source}: {', '.join(differ)} differ from those of apache-tvm {TVM}",
            allowed=f"v{TVM}",
            next=CLONE,
        )


def find_headers(source: Path, headers: Path | None) -> Path:
    """A folder with ``CL/cl.h``. Raises UserError."""
    usual = [source / "3rdparty/OpenCL-Headers", Path("/usr/include"), Path("/usr/local/include")]
    for folder in [headers] if headers else usual:
        if (folder / "CL/cl.h").is_file():
            return folder.resolve()
    raise UserError(
        "the headers of OpenCL are not here",
        got=f"no CL/cl.h in {headers or ', '.join(map(str, usual))}",
        next="sudo apt install opencl-headers, or"
        f" git -C {source} submodule update --init --depth 1 3rdparty/OpenCL-Headers",
    )


def find_driver(driver: Path | None) -> Path:
    """The file of the OpenCL library. Raises UserError."""
    library = opencl_driver.open_driver(driver)
    path = opencl_driver.file_of(library) if library is not None else None
    if path is not None:
        return path.absolute()
    raise UserError(
        "no OpenCL driver is here",
        got=f"{driver}: no OpenCL library" if driver else "no libOpenCL.so",
        next=_DRIVERS,
    )


def _arguments(source: Path, tvm: Path, ffi: Path, headers: Path, scratch: Path) -> list[str]:
    """What the compiler is called with; headers of the runtime are the wheel's own wherever it has them."""
    shutil.copytree(source / _RUNTIME, scratch / _RUNTIME)
    shutil.copytree(source / "src/support", scratch / "src/support")
    _copy_headers(source / "src/runtime", scratch / "src/runtime")
    _copy_headers(tvm / "src/runtime", scratch / "src/runtime")
    runtime = scratch / _RUNTIME
    files = [*sorted(runtime.glob("*.cc")), *sorted(runtime.glob("opencl_wrapper/*.cc"))]
    folders = [tvm / "include", ffi / "include", headers, source / "include"]
    return [
        "-std=c++20", "-O2", "-fPIC", "-shared", "-w", f"-ffile-prefix-map={scratch}=tvm",
        *(f"-I{f}" for f in folders), *map(str, files),
        str(tvm / "lib/libtvm_runtime.so"), str(ffi / "lib/libtvm_ffi.so"),
        "-Wl,-rpath,$ORIGIN", "-Wl,-z,defs", "-ldl", "-lpthread",
    ]  # fmt: skip


def _copy_headers(source: Path, to: Path) -> None:
    for file in source.rglob("*.h") if source.is_dir() else ():
        target = to / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _run_compiler(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(
            "the compiler does not end", got=f"{_BUILD_SECONDS:g} s", next="free some memory"
        ) from None
    if done.returncode:
        errors = re.findall(r"^.*error.*$", done.stderr, re.M) or done.stderr.splitlines()[-3:]
        raise UserError(
            "the sources do not compile here",
            got="; ".join(errors[:3])[-1000:],
            allowed=f"g++ 10 or clang++ 13 and newer, with C++20; sources of v{TVM}",
            next="CXX names another compiler",
        )


def _checked(library: Path) -> dict[str, Any]:
    """The device that the runtime finds, asked in a process of its own. Raises UserError."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "codesign.devices.opencl_runtime", str(library)],
            capture_output=True,
            text=True,
            timeout=_CHECK_SECONDS,
        )
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise UserError(
            "the OpenCL driver does not answer", got=f"{_CHECK_SECONDS:g} s", next=_DRIVERS
        ) from None
    except (ValueError, IndexError):
        text = (done.stderr.strip().splitlines() or [""])[-1][-500:]
        raise UserError(
            "the runtime was built, and a process that uses it dies",
            got=f"exit status {done.returncode}: {text}",
            next="clinfo shows whether the driver works without TVM",
        ) from None
    if answer.get("error") == "no device":
        raise UserError(
            "the OpenCL library is here, and no device for it", got="no GPU, no processor",
            next=f"{_DRIVERS}; may this user open the GPU? sudo usermod -aG render,video $USER",
        )  # fmt: skip
    if "error" in answer or not answer["kept"]:
        raise UserError(
            "the runtime was built and does not work",
            got=answer.get("error") or "what was written to the device comes back changed",
            next="clinfo shows whether the driver works without TVM",
        )
    return answer["device"]


def text_of(made: dict[str, Any]) -> str:
    """For people: what was made."""
    device = made["device"]
    lines = [
        f"{made['library']}: works",
        f"device: {device['name']} ({device.get('type', 'type not told')}),"
        f" driver {device.get('driver', 'not told')}",
    ]
    if device.get("type") == "cpu":
        lines.append("that is no GPU: its times say nothing of one, and are labelled so")
    return "\n".join([*lines, "codesign devices serve offers it from its next start on"])


def main() -> int:
    """The command of boards without the command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m codesign.devices.opencl",
        description="Build TVM's OpenCL runtime for this device into the cache, and try it.",
        epilog=f"Sources: {CLONE}",
    )
    parser.add_argument("--source", type=Path, help="checkout of apache/tvm")
    parser.add_argument("--headers", type=Path, help="folder with CL/cl.h")
    parser.add_argument("--driver", type=Path, help="OpenCL library, if not the system's")
    given = parser.parse_args()
    try:
        print(
            text_of(make(given.source, given.headers, given.driver, lambda t: print(t, flush=True)))
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
