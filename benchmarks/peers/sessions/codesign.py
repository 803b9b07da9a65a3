"""A bundle of ours; its threads were set when it was built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.sessions import Inputs
from codesign.lean import import_tvm
from codesign.runtime import Runtime

import_tvm()  # the runtime imports it late; here its import is no part of loading


class Session:
    """A bundle, loaded and verified."""

    def __init__(self, path: Path, threads: int, options: Mapping[str, object]) -> None:
        self._runtime = Runtime(path)

    def prepare(self, inputs: Inputs) -> dict[str, NDArray[np.int64]]:
        return dict(inputs)

    def run(self, prepared: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        (hidden,) = self._runtime.run(prepared).values()
        return np.asarray(hidden)
