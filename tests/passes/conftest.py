"""Running a model as it is, by TVM's own pipeline: no kernels or fusion of ours in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from passes.model import Model, TensorSpec

Array = NDArray[np.generic]


@pytest.fixture(scope="session")
def execute() -> Callable[[Model, Mapping[str, Array]], list[Array]]:
    """``execute(model, inputs)``: the outputs of a model that is not lowered."""

    def run(model: Model, inputs: Mapping[str, Array]) -> list[Array]:
        # the tests check numbers, so LLVM need not spend its time on optimising
        target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
        machine = relax.VirtualMachine(relax.build(model.mod, target=target), tvm.cpu())
        values = [inputs[s.name].astype(s.dtype) for s in model.inputs]
        tensors = [tvm.runtime.tensor(v) for v in (*values, *model.weights.values())]
        return [t.numpy() for t in machine["main"](*tensors)]

    return run


@dataclass
class Sketch:
    """A small model under construction: a builder, one input ``x`` and its weights."""

    bb: relax.BlockBuilder
    x: relax.Var
    params: dict[str, relax.Var]

    def linear(self, x: relax.Expr, name: str) -> relax.Var:
        """``x W^T + b`` in the canonical form; without the addition if there is no such weight."""
        turned = self.bb.emit(relax.op.permute_dims(self.params[name + ".w"], [1, 0]))
        y = self.bb.emit(relax.op.matmul(x, turned))
        bias = self.params.get(name + ".b")
        return y if bias is None else self.bb.emit(relax.op.add(y, bias))


@pytest.fixture(scope="session")
def sketch() -> Callable[..., Model]:
    """``sketch(shape of x, weights, draw)``: the model whose outputs ``draw(sketch)`` emits."""

    def make(
        shape: tuple[int, ...],
        weights: Mapping[str, Array],
        draw: Callable[[Sketch], list[relax.Var]],
    ) -> Model:
        x = relax.Var("x", relax.TensorType(list(shape), "float32"))
        params = {
            n: relax.Var(n, relax.TensorType(list(w.shape), str(w.dtype)))
            for n, w in weights.items()
        }
        bb = relax.BlockBuilder()
        with bb.function("main", [x, *params.values()]):
            with bb.dataflow():
                outs = draw(Sketch(bb, x, params))
                result = bb.emit_output(relax.Tuple(outs))
            bb.emit_func_output(result)
        specs = tuple(
            TensorSpec(f"y{i}", tuple(int(d) for d in o.ty.shape.values), str(o.ty.dtype))
            for i, o in enumerate(outs)
        )
        inputs = (TensorSpec("x", shape, "float32"),)
        return Model(bb.get(), dict(weights), inputs, specs).check("the test")

    return make
