"""Runs bundles: in this process (`Runtime`), or in one of its own (`Predictor`)."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codesign.bundle import IO, Bundle, open_bundle
from codesign.errors import UserError
from codesign.lean import import_tvm
from codesign.manifest import check_machine
from codesign.tensors import pack, unpack
from codesign.worker import Failure, Worker

Arrays = dict[str, NDArray[np.generic]]

_ENTRY = "main"
_BOUND = "main_with_weights"


class RunError(Exception):
    """The process that ran a bundle crashed or did not answer."""


class Runtime:
    """A bundle loaded into this process.

    Weights are loaded once and bound to the entry function. TVM keeps a pool of threads for each
    thread that calls it, so make and run a Runtime in the same thread.

    Args:
        bundle: an opened bundle or its path.

    Raises:
        BundleError: it is damaged or for another machine.
        UserError: this process cannot have the bundle's number of threads.
    """

    def __init__(self, bundle: Bundle | Path | str) -> None:
        import_tvm()
        import tvm
        from tvm import relax

        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        check_machine(self.bundle.manifest["target"])  # one opened only to be read was not checked
        self.inputs = self.bundle.inputs
        self.outputs = self.bundle.outputs
        use_threads(self.bundle.threads)
        library = tvm.runtime.load_module(str(self.bundle.library.resolve()))
        self._machine = relax.VirtualMachine(library, tvm.cpu())
        tensors = [tvm.runtime.empty(i.shape, i.dtype) for i in self.inputs]
        self._arrays = [np.from_dlpack(t) for t in tensors]
        weights = [tvm.runtime.tensor(w) for w in self.bundle.weights().values()]
        self._machine.save_function(_ENTRY, _BOUND, *tensors, *weights)
        self._call = self._machine[_BOUND]

    def run(self, inputs: Mapping[str, ArrayLike]) -> Arrays:
        """Outputs by name, for one array per input of exactly its shape and dtype.

        Raises:
            UserError: an input is missing, unknown, or of another shape or dtype.
        """
        for place, array in zip(self._arrays, checked(inputs, self.inputs), strict=True):
            np.copyto(place, array)
        results = self._call()
        return {
            o.name: np.from_dlpack(r).copy() for o, r in zip(self.outputs, results, strict=True)
        }

    def example(self, seed: int = 0) -> Arrays:
        """Inputs to time with; see `example_inputs`."""
        return example_inputs(self.inputs, seed)

    def block(self, inputs: Mapping[str, ArrayLike], calls: int) -> float:
        """Mean seconds of one call over a block of calls, from arrays to arrays."""
        start = time.perf_counter()
        for _ in range(calls):
            self.run(inputs)
        return (time.perf_counter() - start) / calls


class Predictor:
    """A bundle run in a process of its own: its crash is a RunError here.

    Args:
        bundle: an opened bundle or its path.
        worker: an existing worker with the bundle's threads; one of its own by default.
        deadline: seconds that one run may take, loading included.
    """

    def __init__(
        self, bundle: Bundle | Path | str, worker: Worker | None = None, deadline: float = 60.0
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.inputs = self.bundle.inputs
        self.outputs = self.bundle.outputs
        self.deadline = deadline
        if worker is not None and worker.threads != self.bundle.threads:
            raise ValueError(f"the worker has {worker.threads} threads, not {self.bundle.threads}")
        self._owned = worker is None
        self._worker = worker or Worker(self.bundle.threads)

    def run(self, inputs: Mapping[str, ArrayLike]) -> Arrays:
        """As `Runtime.run`; also raises RunError."""
        arrays = checked(inputs, self.inputs)
        header, blobs = pack({i.name: a for i, a in zip(self.inputs, arrays, strict=True)})
        params = {"path": str(self.bundle.path), "inputs": header, "fill": False}
        reply = self._worker.request("run_bundle", params, blobs, deadline=self.deadline)
        if isinstance(reply, Failure):
            raise RunError(f"running {self.bundle.path} failed\n{reply}")
        return {n: a.copy() for n, a in unpack(reply.result, reply.blobs).items()}

    def close(self) -> None:
        """Free the bundle; end the process if it is the Predictor's own."""
        if self._owned:
            self._worker.close()
        elif self._worker.pid is not None:
            self._worker.request("forget", {"path": str(self.bundle.path)})

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def example_inputs(specs: tuple[IO, ...], seed: int = 0) -> Arrays:
    """Inputs to time with: normal numbers; ones for integers, for they may be indices."""
    rng = np.random.default_rng(seed)
    return {
        i.name: rng.standard_normal(i.shape).astype(i.dtype)
        if np.dtype(i.dtype).kind == "f"
        else np.ones(i.shape, i.dtype)
        for i in specs
    }


def checked(inputs: Mapping[str, ArrayLike], specs: tuple[IO, ...]) -> list[NDArray[np.generic]]:
    """The inputs as arrays in the order of ``specs``; UserError if they do not fit."""
    expected = [s.name for s in specs]
    if set(inputs) != set(expected):
        missing, unknown = set(expected) - set(inputs), set(inputs) - set(expected)
        raise UserError(
            "the inputs have wrong names",
            got=f"missing {sorted(missing)}, unknown {sorted(unknown)}",
            allowed=", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in specs),
        )
    return [_checked(inputs[s.name], s) for s in specs]


def _checked(value: ArrayLike, spec: IO) -> NDArray[np.generic]:
    array = np.asarray(value)
    if array.shape == spec.shape and array.dtype == spec.dtype:
        return np.ascontiguousarray(array)
    allowed = f"{spec.dtype}{list(spec.shape)}"
    wrong = "shape" if array.shape != spec.shape else "dtype"
    raise UserError(
        f"input {spec.name} has a wrong {wrong}",
        got=f"{array.dtype}{list(array.shape)}",
        allowed=allowed,
        next=f"convert it with .astype({spec.dtype!r})" if wrong == "dtype" else "",
    )


def use_threads(threads: int) -> None:
    """Have TVM use exactly this many threads in the calling thread.

    The pool gets its size when it is first used and can only be told to use less of it later.

    Raises:
        UserError: the pool exists already and is smaller.
    """
    import tvm

    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    count = tvm.get_global_func("runtime.NumThreads")
    if count() > threads:
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
    if count() != threads:
        raise UserError(
            f"TVM already runs with fewer threads than the bundle's {threads}",
            got=f"{count()} in this process",
            next=f"set TVM_NUM_THREADS={threads} before the process starts, or use a Predictor",
        )


def run_files(bundle: Path, inputs: Path, output: Path) -> dict[str, list[int]]:
    """Run a bundle on the arrays of an .npz file; write its outputs to another.

    Returns:
        the shape of each output by name.

    Raises:
        UserError: a file cannot be read or written, or the inputs do not fit.
        RunError: the bundle crashed.
    """
    try:
        with np.load(inputs, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(
            "the inputs cannot be read",
            got=f"{inputs}: {error}",
            allowed="an .npz file of numpy.savez with one array per input, without pickled objects",
        ) from error
    with Predictor(bundle) as predictor:
        results = predictor.run(arrays)
    try:
        with open(output, "wb") as stream:
            np.savez(stream, **results)  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(
            "cannot write the outputs", got=f"{output}: {error.strerror}", allowed="a writable path"
        ) from error
    return {name: list(array.shape) for name, array in results.items()}
