"""Batch normalisation in inference: a multiplication and an addition by vectors over channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax

from passes.normalize.elementwise import binary
from passes.normalize.graph import Graph
from passes.normalize.values import Static, Tensor, Value


def _batch_norm(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta; what is before it takes it up later."""
    x, *vectors = args
    attrs = call.attrs
    known = all(isinstance(v, Static) for v in vectors)
    if not isinstance(x, Tensor) or not known or attrs.training:
        return None
    gamma, beta, mean, variance = (v.array.astype(np.float64) for v in vectors)
    scale = (gamma if attrs.scale else 1.0) / np.sqrt(variance + float(attrs.epsilon))
    shift = (beta if attrs.center else 0.0) - mean * scale
    axis = int(attrs.axis) % len(x.shape)
    shape = tuple(n if i == axis else 1 for i, n in enumerate(x.shape))
    for name, vector, source in (("multiply", scale, vectors[0]), ("add", shift, vectors[1])):
        array = vector.astype(x.dtype).reshape(shape)
        x = binary(graph, name, x, Static(array, source.name or f"batch_norm.{name}"))
    return (x, vectors[2], vectors[3])


RULES: Mapping[str, Callable[..., Value | None]] = {"relax.nn.batch_norm": _batch_norm}
