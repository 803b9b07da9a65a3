"""From scheduled functions to code: what TVM cannot say of them by itself is put in, whatever the target."""

from __future__ import annotations

import tvm
from tvm import relax, tirx
from tvm.runtime import Executable

from targets.errors import TargetError
from targets.gpu_kernels.bound import is_bound
from targets.kernels.amx import lower_tiles
from targets.opencl import KIND, PIPELINE


def compile_functions(mod: tvm.IRModule, target: tvm.target.Target) -> Executable:
    """The code of scheduled PrimFuncs.

    Raises:
        TargetError: for a GPU, one of them does something outside of work items.
    """
    return tvm.compile(_prepared(mod, target), target=target, tir_pipeline=_pipeline(target))


def compile_module(
    mod: tvm.IRModule, target: tvm.target.Target, finish: tvm.transform.Pass
) -> relax.VMExecutable:
    """The code of a lowered Relax module all of whose kernels are scheduled.

    Args:
        finish: passes from its dataflow graph to calls of the virtual machine.
    """
    prepared = _prepared(mod, target)
    return relax.build(prepared, target, relax_pipeline=finish, tir_pipeline=_pipeline(target))


def _prepared(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    if target.kind.name != KIND:
        return lower_tiles(mod)
    for gv, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and not is_bound(func):
            raise TargetError(
                "a kernel for a GPU that is not bound to work items",
                got=str(gv.name_hint),
                allowed="functions that targets.kernels.spaces.schedules gives for the target",
            )
    return mod


def _pipeline(target: tvm.target.Target) -> str:
    return PIPELINE if target.kind.name == KIND else "default"
