"""What the OpenCL driver of this device tells, asked through its C interface; standard library only.

TVM's runtime does not tell whether a device is a GPU, nor its extensions. Constants are those of CL/cl.h
(Khronos, OpenCL 1.2).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LINK = "libOpenCL.so"
"""The name under which TVM's runtime looks for the driver, beside itself."""

_NAMES = ("libOpenCL.so.1", LINK, "libmali.so.1", "libmali.so")
_GPU, _CPU = 1 << 2, 1 << 1
_TYPES = {1 << 1: "cpu", 1 << 2: "gpu", 1 << 3: "accelerator"}
_TYPE, _UNITS, _WORK_GROUP, _LOCAL, _CLOCK = 0x1000, 0x1002, 0x1004, 0x1023, 0x100C
_NAME, _DRIVER, _EXTENSIONS = 0x102B, 0x102D, 0x1030
_MOST_TEXT = 1 << 16


def open_driver(path: Path | None = None) -> ctypes.CDLL | None:
    """The driver, or the loader of drivers, of this system; None if there is none.

    Args:
        path: of the library; None: where systems have it.
    """
    for name in [str(path)] if path else _candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(library, "clGetPlatformIDs"):
            return library
    return None


def _candidates() -> Iterator[str]:
    yield from _NAMES
    if found := ctypes.util.find_library("OpenCL"):
        yield found


def file_of(library: ctypes.CDLL) -> Path | None:
    """Where a library that this process has loaded lies; None if the system does not tell."""
    if os.path.isabs(library._name):
        return Path(library._name)
    stem = re.escape(Path(library._name).name.split(".so")[0])
    maps = Path("/proc/self/maps").read_text()
    found = re.search(rf"\s(/\S*/{stem}[^/\s]*\.so[^/\s]*)$", maps, re.M)
    return Path(found[1]) if found else None


def devices(library: ctypes.CDLL) -> list[dict[str, Any]]:
    """The devices that TVM takes: all GPUs, or where there is none all processors.

    Returns:
        For each ``name``, ``type`` (``gpu``, ``cpu``, ...), ``driver``, ``max_work_group_size``,
        ``local_mem_bytes``, ``compute_units``, ``max_clock_mhz``, ``extensions`` (separated by spaces).
    """
    count = ctypes.c_uint()
    if library.clGetPlatformIDs(0, None, ctypes.byref(count)) or not count.value:
        return []
    platforms = (ctypes.c_void_p * count.value)()
    library.clGetPlatformIDs(count, platforms, None)
    for kind in (_GPU, _CPU):
        if found := [d for p in platforms if p for d in _of_platform(library, p, kind)]:
            return [_told(library, d) for d in found]
    return []


def _of_platform(library: ctypes.CDLL, platform: int, kind: int) -> list[int]:
    count, wanted = ctypes.c_uint(), ctypes.c_uint64(kind)
    at = ctypes.c_void_p(platform)
    if library.clGetDeviceIDs(at, wanted, 0, None, ctypes.byref(count)) or not count.value:
        return []
    found = (ctypes.c_void_p * count.value)()
    library.clGetDeviceIDs(at, wanted, count, found, None)
    return [d for d in found if d]


def _told(library: ctypes.CDLL, device: int) -> dict[str, Any]:
    def number(what: int, kind: Any) -> int:
        value = kind()
        library.clGetDeviceInfo(
            ctypes.c_void_p(device), what, ctypes.c_size_t(ctypes.sizeof(value)),
            ctypes.byref(value), None,
        )  # fmt: skip
        return int(value.value)

    def text(what: int) -> str:
        buffer = ctypes.create_string_buffer(_MOST_TEXT)
        library.clGetDeviceInfo(
            ctypes.c_void_p(device), what, ctypes.c_size_t(_MOST_TEXT), buffer, None
        )
        return buffer.value.decode(errors="replace").strip()

    bits = number(_TYPE, ctypes.c_uint64)
    return {
        "name": text(_NAME),
        "type": next((name for bit, name in _TYPES.items() if bits & bit), "custom"),
        "driver": text(_DRIVER),
        "max_work_group_size": number(_WORK_GROUP, ctypes.c_size_t),
        "local_mem_bytes": number(_LOCAL, ctypes.c_uint64),
        "compute_units": number(_UNITS, ctypes.c_uint),
        "max_clock_mhz": number(_CLOCK, ctypes.c_uint),
        "extensions": text(_EXTENSIONS),
    }
