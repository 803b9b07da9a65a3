"""A device over TVM's RPC as a worker's place, in the child: may hang or die, and is watched for that.

Only what the device does not have yet goes over the wire: libraries are known by their content, within a
session and, where the device runs our server, beyond it; weights that bundles share are sent once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import ArrayLike, NDArray
from tvm import relax, rpc

from codesign.bundle import open_bundle
from codesign.devices.stand_in import is_stand_in
from codesign.runtime import Arrays, checked, example_inputs
from codesign.worker import place
from codesign.worker.process import UNLOADABLE

Answer = tuple[Any, list[memoryview]]

KIND = "opencl"
_KERNELS_ONLY = "sum of what the driver says of each kernel, without starting them"
_MOST_BYTES = 1 << 30
_WORTH_KEEPING, _WORTH_CACHING = 4096, 1 << 20
_STATE_SECONDS = 2.0


class DeviceError(Exception):
    """The device cannot take what it is sent, or is not what was asked for."""

    kind = "device"


class UnloadableError(DeviceError):
    """The device has the library and cannot load it: it is damaged, or made for something else."""

    kind = UNLOADABLE


class FewThreadsError(DeviceError):
    """The device has fewer processors than threads were asked for: nobody's fault but the asker's."""

    kind = "threads"


def open_session(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Connect to a device that the tracker has handed out, and run libraries there from now on.

    Args:
        params: ``address`` ([host, port]), ``key`` (that it expects), ``seconds`` (of the session, at most),
            ``threads``, ``cpus`` ("" for all), ``kind`` (``llvm`` or ``opencl``).

    Returns:
        What the device tells of itself; ``stock`` is true if it does not run our server.
    """
    close_session({}, ())
    there = OverRpc(params)
    place.move(there)
    return there.told, []


def close_session(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Give the device back, whatever still holds on to the session."""
    there = place.place()
    place.move(None)
    if isinstance(there, OverRpc):
        there.close()
    return None, []


def ask_device(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """The JSON that a function of our server gives, by the end of its name; None if it has none."""
    there = place.place()
    if not isinstance(there, OverRpc):
        raise DeviceError("no session is open")
    return there.ask(str(params["what"])), []


def _reason(error: Exception) -> str:
    """The last line of what TVM says: pages of stack come before it."""
    return next(iter(reversed(str(error).strip().splitlines())), type(error).__name__).strip()


class OverRpc:
    """An open session with a device."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        host, port = params["address"]
        self._session = rpc.connect(
            host, int(port), params["key"], session_timeout=int(params["seconds"])
        )
        self.device = self._session.cl() if params["kind"] == KIND else self._session.cpu()
        self.kind = str(params["kind"])
        self._functions: dict[str, Any] = {}
        info = self.ask("device.info")
        self.told: dict[str, Any] = {
            "serial": f"{host}:{port}",
            "stock": info is None,
            **(info or {}),
        }
        if is_stand_in(self.told, self.kind):
            self.told["emulated"] = True
        self._libraries: dict[tuple[str, int, int], tvm.runtime.Module] = {}
        self._kept: dict[str, tvm.runtime.Tensor] = {}
        self._bytes = 0
        self._state: tuple[float, dict[str, Any] | None] = (-math.inf, None)
        self._before: dict[str, Any] | None = None
        self.sent = 0
        if params.get("cpus"):
            self.told["pinned"] = self.ask("device.pin", params["cpus"])
        self._use_threads(int(params["threads"]))

    def close(self) -> None:
        """End the session on the device."""
        with contextlib.suppress(Exception):  # it may be gone already
            self._session.get_function("CloseRPCConnection")()

    def function(self, name: str) -> Any:
        """A function of the device by its full name; None if there is none."""
        if name not in self._functions:
            try:
                self._functions[name] = self._session.get_function(name)
            except (AttributeError, ValueError, RuntimeError):
                if self.blame() == "device":
                    raise
                self._functions[name] = None
        return self._functions[name]

    def ask(self, what: str, *arguments: str) -> Any:
        """What our server's ``codesign.<what>`` says, from JSON; None if it has none."""
        function = self.function(f"codesign.{what}")
        return None if function is None else json.loads(function(*arguments))

    def library(self, path: str) -> tvm.runtime.Module:
        status = os.stat(path)  # a bundle may have been replaced by another at its path
        known = (path, status.st_ino, status.st_mtime_ns)
        if known not in self._libraries:
            name = self._upload(path)
            try:
                self._libraries[known] = self._session.load_module(name)
            except RuntimeError as error:
                raise UnloadableError(
                    f"the device cannot load {Path(path).name}: {_reason(error)}"
                ) from error
        return self._libraries[known]

    def timer(self, path: str, symbol: str) -> place.Timer:
        return self.clock(self.library(path), symbol)

    def clock(self, module: tvm.runtime.Module, symbol: str) -> place.Timer:
        """Times a function by the device's clock, on a GPU with the start of its kernels.

        TVM's evaluator adds up what the driver says of each kernel: without starting them, and without the
        work of the host between them. So our server takes the time there; a stock one has TVM's only, and
        `story` says so.
        """
        wall = self.function("codesign.device.wall") if self.kind == KIND else None
        if wall is None:
            return place.evaluator(module, symbol, self.device)
        return lambda args, calls: float(wall(module, symbol, calls, *args))

    def program(self, path: str) -> RemoteProgram:
        return RemoteProgram(self, path)

    def tensor(self, array: NDArray[np.generic]) -> tvm.runtime.Tensor:
        """The array on the device; the same content is sent once."""
        if array.nbytes < _WORTH_KEEPING:
            return tvm.runtime.tensor(array, device=self.device)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        name = f"{digest}{array.dtype}{array.shape}"
        if name not in self._kept:
            if self._bytes + array.nbytes > _MOST_BYTES:
                self._kept.clear()
                self._bytes = 0
            self._kept[name] = self._sent(array, digest)
            self._bytes += array.nbytes
        return self._kept[name]

    def _sent(self, array: NDArray[np.generic], digest: str) -> tvm.runtime.Tensor:
        """The array on the device; large ones from its cache, where they stay beyond the session."""
        fetch = self.function("codesign.cache.tensor") if self.kind == "llvm" else None
        if fetch is None or array.nbytes < _WORTH_CACHING:
            self.sent += array.nbytes
            return tvm.runtime.tensor(array, device=self.device)
        if not int(self.function("codesign.cache.has")(digest)):
            name = f"{digest[:32]}.bin"
            self._send(array.tobytes(), name)
            self.function("codesign.cache.keep")(name, digest)
            self._session.remove(name)
        return fetch(digest, str(array.dtype), json.dumps(array.shape))

    def meter(self) -> _Told:
        self._before = self._read_state()
        return _Told(float((self._before or {}).get("load") or 0.0))

    def story(self) -> dict[str, Any]:
        """Who measured, and its state before and after; what the device does not tell is absent."""
        found: dict[str, Any] = {k: self.told[k] for k in ("serial", "emulated") if k in self.told}
        if self.kind == KIND and self.function("codesign.device.wall") is None:
            found["timed"] = _KERNELS_ONLY
        states = {"before": self._before, "after": self._read_state()}
        return found | {name: state for name, state in states.items() if state}

    def blame(self) -> str:
        try:
            self._session.get_function("runtime.NumThreads")()
        except Exception:
            return "device"
        return "error"

    def _read_state(self) -> dict[str, Any] | None:
        """The device's state, read again every few seconds."""
        read, state = self._state
        if time.monotonic() - read > _STATE_SECONDS:
            state = self.ask("device.state")
            self._state = (time.monotonic(), state)
        return state

    def _upload(self, path: str) -> str:
        """Have the file on the device; the name it has there."""
        data = Path(path).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        name = f"{digest[:32]}{Path(path).suffix}"
        take = self.function("codesign.cache.take")
        if take is not None and int(take(digest, name)):
            return name
        self._send(data, name)
        if take is not None:
            self.function("codesign.cache.keep")(name, digest)
        return name

    def _send(self, data: bytes, name: str) -> None:
        try:
            self._session.upload(bytearray(data), name)
        except RuntimeError as error:
            raise DeviceError(
                f"the device does not take {len(data)} bytes: {_reason(error)}"
            ) from error
        self.sent += len(data)

    def _use_threads(self, threads: int) -> None:
        count = self.function("runtime.NumThreads")
        if int(count()) != threads:
            self.function("runtime.config_threadpool")(1, threads)
        if int(count()) < threads:
            raise FewThreadsError(f"the device runs {int(count())} threads, not {threads}")


class _Told:
    """The load that the device told when the meter was made."""

    def __init__(self, load: float) -> None:
        self._load = load

    def others(self) -> float:
        return self._load


class RemoteProgram:
    """A bundle on the device; its blocks are timed there, without the way of inputs and outputs."""

    def __init__(self, there: OverRpc, path: str) -> None:
        bundle = open_bundle(path, to_run=False)
        self._there = there
        self.inputs, self.outputs = bundle.inputs, bundle.outputs
        devices = [there.device]
        if there.kind == KIND:
            devices.append(there._session.cpu())
        self._machine = relax.VirtualMachine(there.library(str(bundle.library.resolve())), devices)
        self._weights = [there.tensor(w) for w in bundle.weights().values()]
        self._bound = f"bound_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
        self._arguments_kept: list[tvm.runtime.Tensor] = []
        self._timed: place.Timer | None = None

    def run(self, inputs: Mapping[str, ArrayLike]) -> Arrays:
        self._machine.set_input("main", *self._arguments(inputs), *self._weights)
        self._machine.invoke_stateful("main")
        results = self._machine.get_outputs("main")
        found = results if isinstance(results, list | tuple) else [results]
        return {o.name: r.numpy() for o, r in zip(self.outputs, found, strict=True)}

    def example(self, seed: int = 0) -> Arrays:
        return example_inputs(self.inputs, seed)

    def block(self, inputs: Mapping[str, ArrayLike], calls: int) -> float:
        """Mean seconds of one call, by the device's own clock."""
        if self._timed is None:  # bound once: the inputs of blocks are always the same
            arguments = self._arguments(inputs)
            self._machine.save_function("main", self._bound, *arguments, *self._weights)
            self._arguments_kept = arguments
            self._timed = self._there.clock(self._machine.module, self._bound)
        return self._timed((), calls)

    def _arguments(self, inputs: Mapping[str, ArrayLike]) -> list[tvm.runtime.Tensor]:
        device = self._there.device
        return [tvm.runtime.tensor(a, device=device) for a in checked(inputs, self.inputs)]
