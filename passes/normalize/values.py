"""What a Relax variable stands for: a known array, or a view of a tensor of the new graph."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Union

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.normalize.views import Shape, View

Array = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Static:
    """An array that no input changes; ``name`` is the weight that it comes from, if one."""

    array: Array
    name: str = ""

    @property
    def shape(self) -> Shape:
        return self.array.shape

    @property
    def dtype(self) -> str:
        return str(self.array.dtype)

    def onto(self, view: View, base: Shape) -> Static | None:
        """As ``Tensor.onto``; what varies along the last axis alone becomes a vector."""
        if self.array.size == 1:
            return Static(self.array.reshape(()), self.name)
        steps = view.onto(self.shape, base)
        if steps is None:
            return None
        array = self.array.reshape(steps[0]).transpose(steps[1]).reshape(steps[2])
        return Static(array.reshape(-1) if array.size == array.shape[-1] else array, self.name)

    @property
    def is_vector(self) -> bool:
        """Whether it lies along one axis alone, and is a weight such as a bias if others are there."""
        one = sum(n > 1 for n in self.shape) == 1
        return one and (self.array.ndim == 1 or (self.name != "" and self.array.dtype.kind == "f"))

    @property
    def scalar(self) -> float | None:
        """The one number that the array holds, if it holds one."""
        return self.array.reshape(-1)[0].item() if self.array.size == 1 else None


@dataclass(frozen=True, eq=False)
class Tensor:
    """``var`` of the new graph, read through ``view``, then broadcast if ``broadcast`` is set."""

    var: relax.Expr
    view: View
    broadcast: Shape | None = None

    @staticmethod
    def of(var: relax.Expr) -> Tensor:
        return Tensor(var, View.of(shape_of(var)))

    @property
    def shape(self) -> Shape:
        return self.view.shape if self.broadcast is None else self.broadcast

    @property
    def dtype(self) -> str:
        return str(self.var.ty.dtype)

    @property
    def narrow(self) -> Tensor:
        """The same without its broadcast."""
        return Tensor(self.var, self.view)

    @property
    def direct(self) -> bool:
        """Whether this is just the variable."""
        return self.broadcast is None and self.view.trivial

    def widened(self, shape: Shape) -> Tensor:
        """Broadcast to ``shape``; nothing happens if it has that shape already."""
        return self if shape == self.shape else Tensor(self.var, self.view, shape)

    def reshape(self, shape: Shape) -> Tensor | None:
        """Another shape, or None where the view cannot say it."""
        if self.broadcast is None:
            view = self.view.reshape(shape)
            return None if view is None else Tensor(self.var, view)
        narrow = _narrow_shape(self.view.shape, self.broadcast, shape)
        view = None if narrow is None else self.view.reshape(narrow)
        return None if view is None else Tensor(self.var, view).widened(shape)

    def onto(self, view: View, base: Shape) -> Tensor | None:
        """What is broadcast against ``view`` as it meets ``base`` instead; see ``View.onto``."""
        steps = view.onto(self.view.shape, base)
        split = None if steps is None else self.narrow.reshape(steps[0])
        moved = None if split is None or steps is None else split.permute(steps[1])
        return None if moved is None or steps is None else moved.reshape(steps[2])

    def permute(self, axes: tuple[int, ...]) -> Tensor | None:
        if self.broadcast is None:
            return Tensor(self.var, self.view.permute(axes))
        rank = len(self.broadcast)
        view = self.view.reshape((1,) * (rank - len(self.view.shape)) + self.view.shape)
        if view is None:
            return None
        shape = tuple(self.broadcast[a] for a in axes)
        return Tensor(self.var, view.permute(axes)).widened(shape)


Value = Union[Static, Tensor, relax.Expr, "tuple[Value, ...]"]
"""A tuple stands for a Relax tuple, an expression for what is no tensor (a shape, a number)."""


def shape_of(expr: relax.Expr) -> Shape:
    """The static shape of a tensor expression."""
    return tuple(int(n) for n in expr.ty.shape.values)


def _narrow_shape(narrow: Shape, wide: Shape, new: Shape) -> Shape | None:
    """The shape whose broadcast to ``new`` is that of ``narrow`` to ``wide``, reshaped.

    Only axes of length 1 may come and go; None otherwise.
    """
    if prod(wide) != prod(new) or [n for n in wide if n != 1] != [n for n in new if n != 1]:
        return None
    padded = (1,) * (len(wide) - len(narrow)) + narrow
    kept = iter([n for n, w in zip(padded, wide, strict=True) if w != 1])
    return tuple(next(kept) if n != 1 else 1 for n in new)
