"""A kernel with the elementwise work behind it, fused as the lowering of a whole model fuses it."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax, tirx

from targets.errors import TargetError
from targets.kernels.legalize import LEGALIZE
from targets.kernels.quantize_static import quantize_static

ACTIVATIONS = {
    "gelu": relax.op.nn.gelu,
    "gelu_tanh": relax.op.nn.gelu_tanh,
    "relu": relax.op.nn.relu,
    "silu": relax.op.nn.silu,
    "tanh": relax.op.tanh,
}


def with_epilogue(
    func: tirx.PrimFunc,
    *,
    bias: bool = False,
    activation: str = "",
    residual: bool = False,
    codes: bool = False,
) -> tirx.PrimFunc:
    """``activation(y + bias) + residual`` for a kernel with one output y f32[*lead, n], its last buffer.

    The result takes the kernel's inputs, then the bias f32[n], the residual f32[*lead, n], the two
    parameters of `quantize_static` if the output is to be ``codes``, then the output.
    Raises TargetError if relax does not make one function of it.
    """
    *buffers, output = func.params
    inputs = [_variable(f"x{i}", b.shape, str(b.dtype)) for i, b in enumerate(buffers)]
    shape = [int(d) for d in output.shape]
    extra = [_variable("bias", shape[-1:], "float32")] if bias else []
    extra += [_variable("residual", shape, "float32")] if residual else []
    last = [_variable(n, shape[-1:], "float32") for n in ("inverse", "offset")] if codes else []
    builder = relax.BlockBuilder()
    with builder.function("main", [*inputs, *extra, *last]):
        with builder.dataflow():
            kernel = builder.add_func(func, "kernel")
            y = builder.emit(relax.call_tir(kernel, inputs, relax.TensorType(shape, "float32")))
            if bias:
                y = builder.emit(relax.op.add(y, extra[0]))
            if activation:
                y = builder.emit(ACTIVATIONS[activation](y))
            if residual:
                y = builder.emit(relax.op.add(y, extra[-1]))
            if codes:
                quantize = builder.add_func(quantize_static(shape), "quantize")
                of_codes = relax.TensorType(shape, "uint8")
                y = builder.emit(relax.call_tir(quantize, [y, *last], of_codes))
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    mod = _FUSE(builder.get())
    made = [f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)]
    if len(made) != 1:
        raise TargetError("an epilogue was not fused", got=f"{len(made)} kernels", allowed="1")
    return made[0]


def _variable(name: str, shape: Sequence[tirx.Expr | int], dtype: str) -> relax.Var:
    return relax.Var(name, relax.TensorType([int(d) for d in shape], dtype))


_FUSE = tvm.transform.Sequential(
    [
        relax.transform.LegalizeOps(LEGALIZE),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
)
