"""What a client sees of a device in one session: the files of its work folder, and our own functions.

Runs on the device, in the session's process. `codesign.device.*` tell and set, `codesign.cache.*` keep
files from one session to the next; all values go as JSON text, as numbers or as bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codesign.devices import facts, opencl_runtime
from codesign.devices.options import ServerOptions
from codesign.devices.sandbox import RefusedError

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ONE_CORE_PER_THREAD, _BIG_CORES = -2, 1  # tvm::runtime::threading::ThreadGroup::AffinityMode


def prctl(option: int, value: int) -> bool:
    """Linux's prctl; False where there is none."""
    try:
        return ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


def become_subreaper() -> bool:
    """Inherit grandchildren whose parent has died, so that none escapes."""
    return prctl(_PR_SET_CHILD_SUBREAPER, 1)


def confine(folder: Path, options: ServerOptions, parent: int) -> None:
    """Bind this fresh process to its session: it dies with its parent, writes no cores and no long files."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before that
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    longest = options.max_upload
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if hard != resource.RLIM_INFINITY:
        longest = min(longest, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest, longest))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails with an error instead
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")  # goes before the server does
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def serve(descriptor: int, folder: Path, options: ServerOptions) -> None:
    """Answer a client until it ends the session; TVM is imported already."""
    import tvm_ffi

    register(folder, options)
    tvm_ffi.get_global_func("rpc.ServerLoop")(descriptor)  # closes the descriptor


def register(folder: Path, options: ServerOptions) -> None:
    """Give clients our functions, and ours in place of TVM's where those take any path."""
    import tvm_ffi

    functions: dict[str, Callable[..., Any]] = (
        _files(folder, options) | _device(options) | _cache(folder, options)
    )
    for name, function in functions.items():
        tvm_ffi.register_global_func(name, function, override=True)


def _files(folder: Path, options: ServerOptions) -> dict[str, Callable[..., Any]]:
    from tvm.runtime import load_module

    work = options.folder(folder)

    def remove(name: str) -> None:
        path = work.file(name)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def download(name: str) -> bytes:
        path = work.file(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise RefusedError(f"{name!r} cannot be read: {error.strerror}") from None

    def linked(name: str) -> bytes:
        if not name.endswith((".so", ".dylib")):
            raise RefusedError(f"{name!r}: this server links nothing; link it before the upload")
        return download(name)

    return {
        "tvm.rpc.server.workpath": lambda name: str(work.resolve(name)),
        "tvm.rpc.server.upload": lambda name, data: work.save(name, _bytes(data)),
        "tvm.rpc.server.download": download,
        "tvm.rpc.server.remove": remove,
        "tvm.rpc.server.listdir": lambda name: ",".join(sorted(os.listdir(work.resolve(name)))),
        "tvm.rpc.server.load_module": lambda name: load_module(str(work.file(name))),
        "tvm.rpc.server.download_linked_module": linked,
    }


def _device(options: ServerOptions) -> dict[str, Callable[..., Any]]:
    def info() -> str:
        told = facts.info(options.key, options.name, options.emulated, options.work)
        opencl = opencl_runtime.told()
        return json.dumps(
            told | {"opencl": opencl is not None, "opencl_type": (opencl or {}).get("type")}
        )

    allowed = affinity()
    return {
        "codesign.device.facts": lambda: json.dumps(
            facts.facts() | {"opencl": opencl_runtime.told()}
        ),
        "codesign.device.info": info,
        "codesign.device.state": lambda: json.dumps(facts.state(disk=options.work)),
        "codesign.device.wall": wall,
        "codesign.device.pin": lambda cpus: json.dumps(pin(str(cpus), allowed)),
    }


def _cache(folder: Path, options: ServerOptions) -> dict[str, Callable[..., Any]]:
    cache, work = options.cache, options.folder(folder)

    def tensor(digest: str, dtype: str, shape: str) -> Any:
        """The array of a cached file, in the memory of this session; ``shape`` is JSON."""
        import numpy as np
        import tvm

        file = work.file(f"{digest}.tensor")
        if not cache.take(str(digest), file):
            raise RefusedError(f"refused: nothing is cached under {str(digest)[:80]!r}")
        try:
            array = np.fromfile(file, np.dtype(str(dtype))).reshape(json.loads(str(shape)))
        finally:
            file.unlink()
        return tvm.runtime.tensor(array)

    return {
        "codesign.cache.tensor": tensor,
        "codesign.cache.has": lambda digest: int(cache.has(str(digest))),
        "codesign.cache.keep": lambda name, digest: cache.keep(work.file(name), str(digest)),
        "codesign.cache.take": lambda digest, name: int(cache.take(str(digest), work.file(name))),
    }


def parse_cpus(text: str) -> list[int]:
    """``"0,4-7"`` as ``[0, 4, 5, 6, 7]``.

    Raises:
        RefusedError: it cannot be read so.
    """
    cpus: set[int] = set()
    try:
        for part in filter(None, text.replace(" ", "").split(",")):
            first, _, last = part.partition("-")
            cpus.update(range(int(first), min(int(last or first), 4095) + 1))
    except ValueError:
        raise RefusedError(f"{text!r} is no list of processors such as '0,4-7'") from None
    return sorted(cpus)


def pin(text: str, allowed: list[int]) -> list[int]:
    """Let all threads of this process, TVM's too, run on these processors only; "" undoes it.

    Returns what the system really set; TVM then uses one thread for each processor.

    Raises:
        RefusedError: the list cannot be read, or the system allows none of them.
    """
    import tvm_ffi

    wanted = parse_cpus(text) or allowed
    cpus = [cpu for cpu in wanted if cpu in allowed]
    if not cpus:
        raise RefusedError(f"none of the processors {text!r}; this process may use {allowed}")
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    if text:
        configure(_ONE_CORE_PER_THREAD, len(cpus), [str(cpu) for cpu in cpus])
    else:
        configure(_BIG_CORES, 0)
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cpus)
    return affinity()


def wall(module: Any, symbol: str, calls: int, *args: Any) -> float:
    """Mean seconds of a call by the clock of this device, of calls that the GPU has finished."""
    import tvm

    function = module[str(symbol)]
    device = tvm.runtime.device("opencl", 0)
    function(*args)
    device.sync()
    before = time.perf_counter()
    for _ in range(int(calls)):
        function(*args)
    device.sync()
    return (time.perf_counter() - before) / int(calls)


def affinity() -> list[int]:
    """Processors that this thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def add_opencl(options: ServerOptions) -> None:
    """Load TVM's OpenCL runtime where there is one; a server without says why in its log."""
    if options.offers_opencl and (why := opencl_runtime.load(options.opencl, options.work)):
        say(f"no OpenCL: {why}")


def _bytes(data: Any) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


def say(text: str) -> None:
    """One line for the server's log."""
    print(text, file=sys.stderr, flush=True)
