"""Many small models built as one executable that shares their kernels."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from codesign.kernels import default_schedules, prim_funcs, schedule_module
from codesign.pipeline import build
from passes.kernel_names import readable
from passes.lower import lower, lowered_weights
from passes.model import Model
from targets.target import Target

Array = NDArray[np.generic]


class Programs:
    """Canonical models, lowered with default schedules and compiled together.

    The code is for one thread; ``run`` may be called from several at once.
    """

    def __init__(self, models: Mapping[str, Model], target: Target) -> None:
        self._target = target.with_threads(1)
        lowered = {name: lower(model, self._target) for name, model in models.items()}
        self._weights = {name: list(model.weights) for name, model in lowered.items()}
        module = schedule_module(link(lowered), default_schedules(self._target))
        self._executable = build(module, self._target)
        self._own = threading.local()

    def weights(self, name: str) -> list[str]:
        """Names of the weights that program ``name`` takes, in order."""
        return self._weights[name]

    def weight(self, lowered: str, source: str, dense: Array) -> tvm.runtime.Tensor:
        """The dense weight ``source`` in the form that programs take under the name ``lowered``."""
        made = lowered_weights([lowered], {source: dense}, self._target)
        return tvm.runtime.tensor(np.ascontiguousarray(made[lowered]))

    def run(
        self, name: str, inputs: Sequence[tvm.runtime.Tensor], weights: Sequence[tvm.runtime.Tensor]
    ) -> list[tvm.runtime.Tensor]:
        """Run program ``name``; each thread has a virtual machine of its own."""
        if not hasattr(self._own, "vm"):
            self._own.vm = relax.VirtualMachine(self._executable, tvm.cpu())
        return list(self._own.vm[name](*inputs, *weights))


def link(models: Mapping[str, Model]) -> tvm.IRModule:
    """One module with a Relax function for each lowered model; equal kernels are there once."""
    builder = relax.BlockBuilder()
    mains = {}
    for name, model in models.items():
        kernels = prim_funcs(model.mod).items()
        shared = {gv.name_hint: builder.add_func(f, readable(gv.name_hint)) for gv, f in kernels}
        main = _Rename(shared).visit_expr(model.main)
        mains[name] = main.with_attr("global_symbol", name)
    module = builder.get()
    for name, main in mains.items():
        module[name] = main
    return module


@mutator
class _Rename(PyExprMutator):  # type: ignore[misc]
    def __init__(self, renamed: Mapping[str, tvm.ir.GlobalVar]) -> None:
        super().__init__()
        self._renamed = renamed

    def visit_global_var_(self, gv: tvm.ir.GlobalVar) -> tvm.ir.GlobalVar:
        return self._renamed[gv.name_hint]
