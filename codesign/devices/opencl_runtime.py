"""TVM's OpenCL runtime on this device: where it lies, who may have put it there, and how it is loaded.

To load a library is to run its code. So it comes from this user's own cache, where only ``codesign devices
opencl`` puts it, or from a path that whoever starts the server names; never from a folder that clients fill.
Standard library only, and TVM where it is asked.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import stat
import sys
from pathlib import Path
from typing import Any

from codesign.devices import opencl_driver
from codesign.devices.user_cache import user_cache
from codesign.lean import import_tvm
from codesign.versions import TVM, TVM_FFI

NAME = "libtvm_runtime_opencl.so"
BUILD = "codesign devices opencl --source TVM_SOURCES"
"""The command that makes it, for lines that say how to mend its absence."""

_LOADED: list[ctypes.CDLL] = []


def cached() -> Path:
    """Where this user's cache has the runtime for the pinned TVM and this processor."""
    return user_cache() / "opencl" / f"tvm-{TVM}-ffi-{TVM_FFI}-{platform.machine()}" / NAME


def refused(library: Path, uploads: Path | None = None) -> str | None:
    """Why a library must not be loaded; None if it may be.

    Args:
        uploads: a folder that clients write to.
    """
    try:
        real = library.resolve(strict=True)
    except OSError as error:
        return f"{library}: {error.strerror}"
    if uploads is not None and real.is_relative_to(uploads.resolve()):
        return f"{real} lies in the folder of clients' files"
    for path in (real, real.parent):
        found = path.stat()
        if found.st_uid not in (os.geteuid(), 0):
            return f"{path} belongs to another user"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            return f"others may write to {path}; chmod go-w {path}"
    return None if real.is_file() else f"{real} is no file"


def load(library: Path | None = None, uploads: Path | None = None) -> str | None:
    """Give the TVM of this process OpenCL; nothing of OpenCL itself runs before a device is asked for.

    Args:
        library: the runtime; None: the one in the user's cache, if there is one.
        uploads: a folder that clients write to.

    Returns:
        Why it has none; None if it has.
    """
    import tvm_ffi

    if tvm_ffi.get_global_func("device_api.opencl", allow_missing=True) is not None:
        return None  # this TVM was built with it
    path = library or cached()
    if library is None and not path.exists():
        return f"TVM's wheel has no OpenCL; {BUILD}"
    if why := refused(path, uploads):
        return f"not loaded: {why}"
    try:
        _LOADED.append(ctypes.CDLL(str(path.resolve())))
    except OSError as error:
        return f"{path} does not load: {error}; {BUILD}"
    if tvm_ffi.get_global_func("device_api.opencl", allow_missing=True) is None:
        return f"{path} is no OpenCL runtime of TVM"
    return None


def exists() -> bool:
    """Whether TVM's runtime here has OpenCL and finds a device for it."""
    import tvm

    try:
        return bool(tvm.runtime.device("opencl", 0).exist)
    except Exception:  # a runtime without OpenCL says so in several ways
        return False


def told() -> dict[str, Any] | None:
    """What the driver says of the device that TVM uses (`opencl_driver.devices`); None without one."""
    if not exists():
        return None
    import tvm

    device = tvm.runtime.device("opencl", 0)
    name = str(device.device_name)
    beside = Path(_LOADED[0]._name).parent / opencl_driver.LINK if _LOADED else None
    driver = opencl_driver.open_driver(beside if beside and beside.exists() else None)
    found = opencl_driver.devices(driver) if driver is not None else []
    for one in found:
        if one["name"] == name.strip():
            return one
    return {
        "name": name,
        "max_work_group_size": int(device.max_threads_per_block),
        "local_mem_bytes": int(device.max_shared_memory_per_block),
        "compute_units": int(device.multi_processor_count),
    }


def check(library: Path) -> dict[str, Any]:
    """Load a runtime in this process and use it: ``error``, or the device and whether it kept 4 kB.

    Meant for a process of its own: a wrong library may end it.
    """
    import_tvm()
    if why := load(library):
        return {"error": why}
    device = told()
    if device is None:
        return {"error": "no device", "loaded": True}
    import numpy as np
    import tvm

    array = np.arange(1024, dtype=np.float32)
    back = tvm.runtime.tensor(array, device=tvm.runtime.device("opencl", 0)).numpy()
    return {"device": device, "kept": bool((back == array).all())}


if __name__ == "__main__":
    print(json.dumps(check(Path(sys.argv[1]))), flush=True)
    os._exit(0)  # drivers may not survive the end of a process
