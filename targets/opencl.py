"""How code for OpenCL is made: the target as TVM knows it, and what its code generator needs done before.

TVM 0.27 prints float constants with seven digits, too few for some float32, names of variables as they are,
and `exp` and others under names that are none; it knows no vectors of reinterpreted bits. All of that is put
right here, once, for every kernel.
"""

from __future__ import annotations

import re

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.target.intrin import register_intrin_lowering
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from targets.errors import TargetError
from targets.target import Target

KIND = "opencl"

_IDENTIFIER, _OTHER = re.compile("[A-Za-z_][A-Za-z0-9_]*"), re.compile("[^A-Za-z0-9_]")

_NAMES = {
    "float16": "half", "float32": "float", "int8": "char", "uint8": "uchar", "int16": "short",
    "uint16": "ushort", "int32": "int", "uint32": "uint", "int64": "long", "uint64": "ulong",
}  # fmt: skip


def opencl_target(target: Target) -> tvm.target.Target:
    """``target`` as TVM knows it: device code in OpenCL C, host code by LLVM.

    Raises:
        TargetError: it has no GPU.
    """
    gpu = target.gpu
    if gpu is None:
        raise TargetError(
            "a target of kind opencl without a GPU",
            got=target.name,
            allowed="Target(kind='opencl', gpu=Gpu(...))",
        )
    return target.tvm()


def printable(mod: tvm.IRModule) -> tvm.IRModule:
    """Kernels with what the code generator prints wrongly said in another way.

    Float32 constants that seven digits do not tell are given by their bits; variables get names that C allows,
    for those of weights come from the model.
    """
    functions = {
        gv: _printable(f) if isinstance(f, tirx.PrimFunc) else f for gv, f in mod.functions_items()
    }
    return tvm.IRModule(functions, attrs=mod.attrs)


def _printable(func: tirx.PrimFunc) -> tirx.PrimFunc:
    renamed: list[tuple[tirx.Var, tirx.Var]] = []

    def bits(value: tirx.FloatImm) -> tirx.Expr:
        if str(value.ty.dtype) != "float32" or printed_exactly(value.value):
            return value
        pattern = int(np.float32(value.value).view(np.int32))
        return tirx.call_pure_extern("float32", "as_float", tirx.IntImm("int32", pattern))

    def name(var: tirx.Var) -> tirx.Var:
        if _IDENTIFIER.fullmatch(var.name):
            return var
        for old, new in renamed:
            if old.same_as(var):
                return new
        new = tirx.Var(f"v{len(renamed)}_" + _OTHER.sub("_", var.name), var.ty)
        renamed.append((var, new))
        return new

    return tvm_ffi.structural_map(func, [(tirx.FloatImm, bits), (tirx.Var, name)])


def _finished() -> tvm.transform.Pass:
    """The last passes over kernels: TVM's own, then `printable`."""
    last = tvm.transform.module_pass(lambda mod, _: printable(mod), opt_level=0, name=PIPELINE)
    return tvm.transform.Sequential([_finish_kernels(), last])


PIPELINE = "codesign.opencl"
"""TVM's pipeline for scheduled functions with `printable` as the last pass over kernels."""

_lower, _finish_host, _finish_kernels = default_s_tir_pipeline()
register_tir_pipeline(PIPELINE, lambda: (_lower, _finish_host, _finished))


def printed_exactly(value: float) -> bool:
    """Whether the code generator's way to print a float32 tells it exactly."""
    single = np.float32(value)
    return not np.isfinite(single) or np.float32(f"{single:e}") == single


def _reinterpreted(call: tvm.ir.Call) -> tirx.Expr:
    """``as_float4(x)``: the operator of OpenCL C, for scalars and vectors alike."""
    base, _, lanes = str(call.ty.dtype).partition("x")
    return tirx.call_pure_extern(str(call.ty.dtype), f"as_{_NAMES[base]}{lanes}", call.args[0])


def _by_name(call: tvm.ir.Call) -> tirx.Expr:
    """A function that OpenCL C has under the same name, of vectors too."""
    return tirx.call_pure_extern(str(call.ty.dtype), call.op.name.removeprefix("tirx."), *call.args)


_LEVEL = 100  # above TVM's own rules
_FUNCTIONS = (
    "exp", "tan", "asin", "acos", "atan", "asinh", "acosh", "atanh", "log1p", "log10", "atan2", "hypot",
    "copysign", "nextafter", "ldexp",
)  # fmt: skip

register_intrin_lowering("tirx.reinterpret", target=KIND, f=_reinterpreted, level=_LEVEL)
for _name in _FUNCTIONS:
    register_intrin_lowering(f"tirx.{_name}", target=KIND, f=_by_name, level=_LEVEL)
