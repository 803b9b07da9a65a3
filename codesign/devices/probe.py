"""``python -m codesign.devices.probe``: one RPC session, in a process that may be killed when it hangs.

Reads one JSON object on standard input and prints one on standard output. TVM's client can wait for ever
for a device that is not free, or for an answer that does not come; `codesign.devices.probing` watches it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from codesign.lean import import_tvm

_ROWS, _INNER, _OUTPUTS = 7, 33, 21
_TRIPLES = {
    "aarch64": "aarch64-linux-gnu",
    "armv7l": "armv7l-linux-gnueabihf",
    "x86_64": "x86_64-linux-gnu",
}
_LINKERS = {"aarch64": "aarch64-linux-gnu-gcc", "armv7l": "arm-linux-gnueabihf-gcc"}
_WARM_UPS = 3
_TOLD = ("info", "state", "facts")


def main() -> int:
    """Do what standard input asks for; the answer is the last line of standard output."""
    asked = json.loads(sys.stdin.readline())
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever prints, it is no answer
    import_tvm()
    from tvm import rpc

    before = time.monotonic()
    host, port = asked["tracker"]
    tracker = rpc.connect_tracker(host, port)
    session = tracker.request(asked["key"], session_timeout=asked["seconds"], max_retry=2)
    answer: dict[str, Any] = {"connect_s": time.monotonic() - before}
    answer |= {what: _tell(session, what) for what in _TOLD if what in asked["tell"]}
    if asked.get("pings"):
        answer["round_trips_s"] = _round_trips(session, asked["pings"])
    if asked.get("kernel"):
        answer["opencl"] = _has_opencl(session)
        answer["kernel"] = _run_kernel(session, asked["machine"] or _machine(answer))
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    os._exit(0)  # the session ends with the connection; nothing that hangs may keep this process


def _tell(session: Any, what: str) -> Any:
    """The device's own words; None from a server that is not ours."""
    try:
        return json.loads(session.get_function(f"codesign.device.{what}")())
    except Exception:  # TVM's server answers an unknown function with several kinds of error
        return None


def _machine(answer: dict[str, Any]) -> str | None:
    return (answer.get("info") or {}).get("machine")


def _has_opencl(session: Any) -> bool | None:
    try:
        return bool(session.cl().exist)
    except Exception:
        return None


def _round_trips(session: Any, count: int) -> list[float]:
    """Seconds of so many copies of one byte to the device, each with its acknowledgement."""
    import numpy as np
    from tvm.runtime import empty

    byte, tensor = np.zeros(1, np.uint8), empty((1,), "uint8", session.cpu())
    times = []
    for _ in range(count + _WARM_UPS):
        before = time.perf_counter()
        tensor.copyfrom(byte)
        times.append(time.perf_counter() - before)
    return times[_WARM_UPS:]


def _run_kernel(session: Any, machine: str | None) -> dict[str, Any]:
    """Build a product for the device's processor, run it there and compare it with NumPy's float64."""
    import numpy as np
    import tvm

    if machine not in _TRIPLES:
        text = f"no code generator is chosen for {machine!r}"
        return {"status": "not tried", "text": text if machine else "its processor is not told"}
    rng = np.random.default_rng()
    x = rng.standard_normal((_ROWS, _INNER)).astype(np.float32)
    w = rng.standard_normal((_OUTPUTS, _INNER)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codesign_doctor.so")
        try:
            _build(path, machine)
        except Exception as error:
            return {"status": "not built", "text": f"{type(error).__name__}: {error}"[-1500:]}
        try:
            session.upload(str(path))
            library = session.load_module(path.name)
            device = session.cpu()
            y = tvm.runtime.empty((_ROWS, _OUTPUTS), "float32", device)
            library["main"](*(tvm.runtime.tensor(a, device) for a in (x, w)), y)
            found = y.numpy()
        except Exception as error:
            return {"status": "failed", "text": f"{type(error).__name__}: {error}"[-1500:]}
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    off = float(np.abs(found - exact).max() / np.abs(exact).max())
    return {"status": "ok" if off < 1e-5 else "wrong", "error": off, "text": ""}


def _build(path: Path, machine: str) -> None:
    import tvm
    from tvm import te

    k = te.reduce_axis((0, _INNER), name="k")
    x = te.placeholder((_ROWS, _INNER), name="x")
    w = te.placeholder((_OUTPUTS, _INNER), name="w")
    y = te.compute((_ROWS, _OUTPUTS), lambda m, n: te.sum(x[m, k] * w[n, k], axis=k), name="y")
    target = tvm.target.Target({"kind": "llvm", "mtriple": _TRIPLES[machine]})
    module = tvm.IRModule({"main": te.create_prim_func([x, w, y])})
    tvm.compile(module, target=target).export_library(str(path), fcompile=_linker(machine))


def _linker(machine: str) -> Any:
    """A linker for another processor: ld.lld links for all, else that architecture's gcc."""
    import platform
    import shutil

    from targets.link import Linker, find_linker

    if machine == platform.machine():
        return find_linker()
    for name in ("ld.lld", _LINKERS.get(machine)):
        if name and (path := shutil.which(name)):
            return Linker(name, path)
    raise RuntimeError(f"no linker for {machine}: sudo apt install lld")


if __name__ == "__main__":
    sys.exit(main())
