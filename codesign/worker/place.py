"""Where a worker's libraries run: in its own process, until it is told of a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import tvm
from numpy.typing import ArrayLike, NDArray

from codesign.bundle import IO
from codesign.runtime import Runtime
from codesign.worker.load import LoadMeter

Arrays = dict[str, NDArray[np.generic]]


class Meter(Protocol):
    """Counts what others do on the processors that measure."""

    def others(self) -> float: ...


class Program(Protocol):
    """A bundle that is loaded where it runs."""

    inputs: tuple[IO, ...]

    def run(self, inputs: Mapping[str, ArrayLike]) -> Arrays: ...
    def example(self, seed: int = 0) -> Arrays: ...
    def block(self, inputs: Mapping[str, ArrayLike], calls: int) -> float: ...


Timer = Callable[[Sequence[Any], int], float]


class Place(Protocol):
    """Loads and calls libraries.

    Attributes:
        device: what holds the arguments of kernels.
    """

    device: tvm.runtime.Device

    def library(self, path: str) -> tvm.runtime.Module:
        """The library, loaded once."""
        ...

    def timer(self, path: str, symbol: str) -> Timer:
        """Times blocks of calls of a function of a library: (arguments, calls) -> mean seconds of one."""
        ...

    def program(self, path: str) -> Program:
        """The bundle, loaded."""
        ...

    def meter(self) -> Meter:
        """A meter that starts now."""
        ...

    def story(self) -> dict[str, Any]:
        """What is worth keeping with a measurement that was just taken; JSON values."""
        ...

    def blame(self) -> str:
        """After an exception, what failed: ``error``, what was asked for; ``device``, this place."""
        ...


def evaluator(library: tvm.runtime.Module, symbol: str, device: tvm.runtime.Device) -> Timer:
    """TVM's own way to time: on a processor by its clock, on a GPU by what its driver says of each kernel."""

    def block(args: Sequence[Any], calls: int) -> float:
        evaluate = library.time_evaluator(symbol, device, number=calls, repeat=1)
        return float(evaluate(*args).results[0])

    return block


class Here:
    """The process of the worker itself."""

    def __init__(self) -> None:
        self.device = tvm.cpu()
        self.library = lru_cache(maxsize=8)(tvm.runtime.load_module)

    def timer(self, path: str, symbol: str) -> Timer:
        return evaluator(self.library(path), symbol, self.device)

    def program(self, path: str) -> Program:
        return Runtime(path)

    def meter(self) -> Meter:
        return LoadMeter()

    def story(self) -> dict[str, Any]:
        return {}

    def blame(self) -> str:
        return "error"


_now: list[Place] = []


def place() -> Place:
    """Where libraries run at present."""
    if not _now:
        _now.append(Here())
    return _now[0]


def move(to: Place | None) -> None:
    """From now on libraries run there; None for this process."""
    _now[:] = [] if to is None else [to]
