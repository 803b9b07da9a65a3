"""The model that flows through every pass: a Relax graph, its weights by name, its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from passes.errors import PassError


@dataclass(frozen=True)
class TensorSpec:
    """Name, static shape and dtype of one input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Model:
    """A Relax module with one function ``main`` and its weights.

    ``main`` takes the inputs, then one parameter per weight whose Relax name is the weight's name,
    and returns a tuple of the outputs. Passes return new models and never change the one they got.
    """

    mod: tvm.IRModule
    weights: Mapping[str, NDArray[np.generic]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    name: str = "model"

    @property
    def main(self) -> relax.Function:
        return self.mod["main"]

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights as stored."""
        return sum(w.nbytes for w in self.weights.values())

    def with_weights(self, changed: Mapping[str, NDArray[np.generic]]) -> Model:
        """The same graph with some weights replaced by others of the same shape and dtype."""
        for name, new in changed.items():
            old = self.weights[name]
            if new.shape != old.shape or new.dtype != old.dtype:
                raise PassError(
                    f"weight {name} cannot be replaced",
                    got=f"{new.dtype}{list(new.shape)}",
                    allowed=f"{old.dtype}{list(old.shape)}",
                )
        return replace(self, weights={n: changed.get(n, w) for n, w in self.weights.items()})

    def check(self, after: str = "") -> Model:
        """Return self if graph and weights agree; raise PassError naming the pass ``after`` which they do not."""
        where = f" after {after}" if after else ""
        try:
            relax.analysis.well_formed(self.mod)
        except Exception as error:  # TVM raises different classes here
            raise PassError(f"the graph is not well-formed{where}", got=str(error)[:500]) from error
        params = self.main.params
        expected = [s.name for s in self.inputs] + list(self.weights)
        got = [p.name for p in params]
        if got != expected:
            wrong = [f"{g} != {e}" for g, e in zip(got, expected, strict=False) if g != e][:3]
            raise PassError(
                f"parameters and weights disagree{where}",
                got=f"{len(got)} parameters, first differences: {wrong}",
                allowed=f"{len(expected)} (inputs, then weights, by name)",
            )
        for param, (name, weight) in zip(
            params[len(self.inputs) :], self.weights.items(), strict=True
        ):
            ty = param.ty
            shape, dtype = tuple(int(d) for d in ty.shape.values), str(ty.dtype)
            if shape != weight.shape or dtype != str(weight.dtype):
                raise PassError(
                    f"weight {name} does not fit its parameter{where}",
                    got=f"{weight.dtype}{list(weight.shape)}",
                    allowed=f"{dtype}{list(shape)}",
                )
        return self
