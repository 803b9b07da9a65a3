"""The loaded model of each runtime, one module a peer, each with a class ``Session``.

Every session splits a call in two: `prepare` turns the inputs (name -> int64 [1, 128]) into what
the runtime wants, untimed, and `run` executes one inference and returns the last hidden state as a
NumPy array, timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Inputs = Mapping[str, NDArray[np.int64]]


class LoadedModel(Protocol):
    """What a peer's ``Session(path, threads, options)`` has to offer."""

    def prepare(self, inputs: Inputs) -> Any: ...

    def run(self, prepared: Any) -> NDArray[np.float32]: ...


def float_mask(inputs: Inputs) -> NDArray[np.float32]:
    """The additive mask [1, 1, S, S]: 0 for real tokens, a large negative number for padding."""
    mask = inputs["attention_mask"][:, None, None, :]
    length = mask.shape[-1]
    return np.repeat(np.where(mask > 0, 0.0, -1e9).astype(np.float32), length, axis=2)
