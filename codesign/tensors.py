"""Named arrays as a JSON header and raw bytes, for the way to a worker and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pack(arrays: Mapping[str, ArrayLike]) -> tuple[list[dict[str, Any]], list[memoryview]]:
    """Names, shapes and dtypes, and one blob for each array.

    Raises:
        ValueError: an array holds Python objects, or a dtype that NumPy cannot name, as bfloat16.
    """
    header, blobs = [], []
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise ValueError(f"{name} holds {array.dtype}: not numbers that can be sent")
        header.append({"name": name, "shape": list(array.shape), "dtype": array.dtype.str})
        flat = np.ascontiguousarray(array).reshape(-1)  # 0-d and empty arrays have no byte view
        blobs.append(memoryview(flat.tobytes() if not flat.size else flat.data).cast("B"))
    return header, blobs


def unpack(
    header: Sequence[Mapping[str, Any]], blobs: Sequence[bytes]
) -> dict[str, NDArray[np.generic]]:
    """The arrays again; read-only views of the blobs."""
    return {
        h["name"]: np.frombuffer(blob, np.dtype(h["dtype"])).reshape(h["shape"])
        for h, blob in zip(header, blobs, strict=True)
    }
