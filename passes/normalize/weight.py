"""The weight of a layer: an array, or the codes of one that is quantised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.values import Array, Static, Tensor, Value

CODES = ".codes"
"""Suffix of codes that no layer reads, so that the layer that does can have the name itself."""


@dataclass(frozen=True, eq=False)
class Codes:
    """A weight ``scale (codes - zero)`` [N, ...].

    Attributes:
        codes: integers [N, ...].
        scale, zero: one number, or [N].
    """

    codes: Static
    scale: Static
    zero: Static

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape


Weight = Static | Codes


def weight_of(graph: Graph, value: Value, outputs: int) -> Weight | None:
    """The weight that a value is, its axis ``outputs`` moved to the front; None if it is none."""
    if isinstance(value, Static) and value.array.dtype.kind == "f":
        return Static(np.moveaxis(value.array, outputs, 0), value.name)
    call = graph.producer(value.var, "dequantize") if isinstance(value, Tensor) else None
    if call is None or not isinstance(value, Tensor) or value.broadcast is not None:
        return None
    arrays = [graph.known(a) for a in call.args]
    codes, scale, zero = arrays
    if codes is None or scale is None or zero is None:
        return None

    def seen(array: Array) -> Array:
        return np.moveaxis(value.view.read(array), outputs, 0)

    axis = int(call.attrs.axis) % codes.ndim
    numbers = [_by_output(v, codes.shape, axis, seen) for v in (scale, zero)]
    if numbers[0] is None or numbers[1] is None:
        return None
    name = call.args[0].name.removesuffix(CODES)
    return Codes(Static(seen(codes), name), numbers[0], numbers[1])


def _by_output(
    numbers: Array, shape: tuple[int, ...], axis: int, seen: Callable[[Array], Array]
) -> Static | None:
    """One number, or one for each output; None if they differ within an output."""
    if numbers.size == 1:
        return Static(numbers.reshape(()))
    along = numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    rows = seen(np.broadcast_to(along, shape))
    rows = rows.reshape(len(rows), -1)
    return None if (rows != rows[:, :1]).any() else Static(rows[:, 0].copy())


def moved(weight: Weight, change: Callable[[Array], Array]) -> Weight:
    """The weight with its inputs in another order or shape; outputs stay in front."""
    if isinstance(weight, Static):
        return Static(change(weight.array), weight.name)
    return replace(weight, codes=Static(change(weight.codes.array), weight.codes.name))


def written(graph: Graph, weight: Weight, fallback: str) -> relax.Var:
    """The weight as a parameter of its own, or computed from one: what a layer reads."""
    if isinstance(weight, Static):
        return graph.weight(weight, fallback)
    codes = graph.weight(weight.codes, fallback)
    scale = weight.scale
    numbers = graph.weight(scale, f"{codes.name}.scale") if scale.array.ndim else graph.read(scale)
    zero = graph.read(weight.zero)
    return graph.emit(relax.op.dequantize(codes, numbers, zero, 0, "float32"))
