"""The compiler as one numbered list, from an imported model to an executable.

1. canonical   any importer's graph  -> canonical form, QKV combined   passes/normalize, combine_qkv
2. compress    canonical             -> canonical, smaller             passes/{ffn,heads,layers}.py
   format      canonical             -> with int8 and sparse kernels   passes/format_linear.py
3. lower       canonical             -> call_tir of fused kernels      passes/lower.py
4. schedule    reference kernels     -> scheduled kernels              codesign/kernels.py
5. finish      dataflow of call_tir  -> VM calls, memory planned       ``finish``
6. build       VM calls and kernels  -> executable, tiles for AMX      ``build``
"""

from __future__ import annotations

import tvm
from tvm import relax

from codesign.kernels import Choose, default_schedules, schedule
from passes.combine_qkv import combine_qkv
from passes.lower import lower
from passes.model import Model
from passes.normalize import normalize
from targets.codegen import compile_module
from targets.target import Target


def canonical(imported: Model) -> Model:
    """Phase 1: the form that sites, passes and the simulator work on."""
    return combine_qkv(normalize(imported))


def compile_model(
    model: Model, target: Target, choose: Choose | None = None
) -> tuple[Model, relax.VMExecutable]:
    """Phases 3 to 6 of a canonical model: the lowered model and the executable.

    The executable's function ``main`` takes the inputs, then the lowered model's weights.
    """
    lowered = lower(model, target)
    scheduled = schedule(lowered, choose or default_schedules(target))
    return lowered, build(scheduled, target)


def finish() -> tvm.transform.Pass:
    """Phase 5: from a dataflow graph of call_tir to calls of the virtual machine."""
    return tvm.transform.Sequential(
        [
            # values: no dataflow, kernels write into buffers
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            # memory: buffers share storage once they are dead
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            # virtual machine: built-ins, shapes, names
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )


def build(scheduled: tvm.IRModule, target: Target) -> relax.VMExecutable:
    """Phase 6: an executable for ``relax.VirtualMachine`` or ``export_library``."""
    return compile_module(scheduled, target.tvm(), finish())
