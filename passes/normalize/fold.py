"""The value of an operator on known operands: by NumPy where that is one line, else by TVM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from passes.normalize.values import Array, shape_of

Args = list[Any]  # arrays, or Relax expressions for what is no tensor


def evaluate(call: relax.Call, args: Args) -> list[Array] | None:
    """The arrays that ``call`` gives on ``args``; None if it cannot be evaluated here.

    Args:
        call: the operator, with its attributes and its result type.
        args: one array for each tensor operand, the Relax expression itself for any other.
    """
    rule = _NUMPY.get(call.op.name)
    if rule is not None and isinstance(call.ty, relax.TensorType):
        result = np.asarray(rule(call, args))
        return [result.astype(str(call.ty.dtype), copy=False)]
    return _by_tvm(call, args)


def _by_tvm(call: relax.Call, args: Args) -> list[Array] | None:
    consts = [_constant(a) for a in args]
    builder = relax.BlockBuilder()
    try:
        with builder.function("main", params=[]):
            with builder.dataflow():
                folded = relax.Call(call.op, consts, call.attrs, call.ty_args)
                out = builder.emit_output(folded)
            builder.emit_func_output(out)
        target = tvm.target.Target({"kind": "llvm"})
        machine = relax.VirtualMachine(relax.build(builder.get(), target=target), tvm.cpu())
        result = machine["main"]()
    except Exception:
        # folding is an optimisation: what TVM cannot run now may be lowered with the whole graph
        return None
    return [r.numpy() for r in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]


def _constant(arg: Any) -> relax.Expr:
    if isinstance(arg, tuple):
        return relax.Tuple([_constant(a) for a in arg])
    return relax.const(arg, str(arg.dtype)) if isinstance(arg, np.ndarray) else arg


def _permute(call: relax.Call, args: Args) -> Array:
    return np.transpose(args[0], call.attrs.axes and [int(a) for a in call.attrs.axes])


def _take(call: relax.Call, args: Args) -> Array:
    data, index = args
    axis = None if call.attrs.axis is None else int(call.attrs.axis)
    mode = {"clip": "clip", "wrap": "wrap"}.get(str(call.attrs.mode), "wrap")
    return np.take(data, index, axis=axis, mode=mode)  # type: ignore[call-overload]


def _slice(call: relax.Call, args: Args) -> Array:
    data = args[0]
    axes, begin, end, *stride = ([int(v) for v in arg] for arg in args[1:])
    picks = [slice(None)] * data.ndim
    for i, axis in enumerate(axes):
        step = stride[0][i] if stride else 1
        stop = None if step < 0 and end[i] < -data.shape[axis] else end[i]
        picks[axis] = slice(begin[i], stop, step)
    return data[tuple(picks)]


def _cast(call: relax.Call, args: Args) -> Array:
    return args[0].astype(str(call.attrs.dtype))


def _arange(call: relax.Call, args: Args) -> Array:
    return np.arange(*(a.value for a in args))


def _quantize(call: relax.Call, args: Args) -> Array:
    x, scale, zero = args
    info = np.iinfo(str(call.attrs.out_dtype))
    codes = np.round(x / _along(call, scale)) + _along(call, zero).astype(np.float32)
    return np.clip(codes, info.min, info.max)


def _dequantize(call: relax.Call, args: Args) -> Array:
    codes, scale, zero = args
    return (codes.astype(np.int64) - _along(call, zero)).astype(np.float32) * _along(call, scale)


def _along(call: relax.Call, numbers: Array) -> Array:
    """One number, or one for each index of the axis of ``call``, as it broadcasts to its result."""
    rank = len(shape_of(call))
    axis = int(call.attrs.axis) % max(rank, 1)
    return numbers.reshape([-1 if i == axis and numbers.size > 1 else 1 for i in range(rank)])


def _view(call: relax.Call, args: Args) -> Array:
    return args[0].reshape(shape_of(call))


_NUMPY: Mapping[str, Callable[[relax.Call, Args], Array]] = {
    "relax.reshape": _view,
    "relax.expand_dims": _view,
    "relax.squeeze": _view,
    "relax.flatten": _view,
    "relax.permute_dims": _permute,
    "relax.broadcast_to": lambda c, a: np.broadcast_to(a[0], shape_of(c)),
    "relax.take": _take,
    "relax.strided_slice": _slice,
    "relax.astype": _cast,
    "relax.arange": _arange,
    "relax.full": lambda c, a: np.broadcast_to(a[1], shape_of(c)),
    "relax.full_like": lambda c, a: np.broadcast_to(a[1], shape_of(c)),
    "relax.zeros": lambda c, a: np.zeros(shape_of(c)),
    "relax.ones": lambda c, a: np.ones(shape_of(c)),
    "relax.shape_to_tensor": lambda c, a: np.array([int(v) for v in a[0]]),
    "relax.gather_elements": lambda c, a: np.take_along_axis(a[0], a[1], int(c.attrs.axis)),
    "relax.add": lambda c, a: a[0] + a[1],
    "relax.subtract": lambda c, a: a[0] - a[1],
    "relax.multiply": lambda c, a: a[0] * a[1],
    "relax.equal": lambda c, a: a[0] == a[1],
    "relax.not_equal": lambda c, a: a[0] != a[1],
    "relax.less": lambda c, a: a[0] < a[1],
    "relax.less_equal": lambda c, a: a[0] <= a[1],
    "relax.greater": lambda c, a: a[0] > a[1],
    "relax.greater_equal": lambda c, a: a[0] >= a[1],
    "relax.logical_and": lambda c, a: np.logical_and(a[0], a[1]),
    "relax.logical_or": lambda c, a: np.logical_or(a[0], a[1]),
    "relax.logical_not": lambda c, a: np.logical_not(a[0]),
    "relax.bitwise_and": lambda c, a: a[0] & a[1],
    "relax.bitwise_or": lambda c, a: a[0] | a[1],
    "relax.where": lambda c, a: np.asarray(np.where(a[0], a[1], a[2])),
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.isnan": lambda c, a: np.isnan(a[0]),
}
