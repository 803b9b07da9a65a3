"""How single Relax operators become kernels where TVM's own legalisation would be slow."""

from __future__ import annotations

from tvm import relax

from targets.kernels import norm, softmax
from targets.kernels.legalize import LEGALIZE as KERNELS
from targets.kernels.legalize import Legalize

VIEWS = ["relax.reshape"]
"""Operators kept as they are: the virtual machine runs them without touching the data."""


def _layer_norm(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    attrs = call.attrs
    affine = bool(attrs.center) and bool(attrs.scale)
    if not (affine and _on_last_axis(call, attrs.axes) and _is_fp32(call)):
        return _default(bb, call)
    kernel = bb.add_func(norm.layer_norm(_shape(call), float(attrs.epsilon)), "layer_norm")
    return relax.call_tir(kernel, list(call.args), call.ty)


def _softmax(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    if not (_on_last_axis(call, [call.attrs.axis]) and _is_fp32(call)):
        return _default(bb, call)
    kernel = bb.add_func(softmax.softmax(_shape(call)), "softmax")
    return relax.call_tir(kernel, list(call.args), call.ty)


def _of_fp32(kernel: Legalize) -> Legalize:
    """``kernel`` for float32, TVM's own legalisation for any other type."""

    def legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        return kernel(bb, call) if _is_fp32(call) else _default(bb, call)

    return legalize


def _attention(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Attention that has no kernel of its own (cross attention): products and a softmax."""
    attrs = call.attrs
    if attrs.causal_mask is not None or attrs.window_size is not None:
        return _default(bb, call)
    op = relax.op
    q, k, v = call.args[:3]  # each (batch, seq, heads, dim)
    scale = _shape(q)[-1] ** -0.5 if attrs.scale is None else float(attrs.scale)
    scores = op.matmul(op.permute_dims(q, [0, 2, 1, 3]), op.permute_dims(k, [0, 2, 3, 1]))
    scores = op.multiply(scores, relax.const(scale, "float32"))
    for bias in call.args[3:]:
        scores = op.add(scores, bias)
    out = op.matmul(op.nn.softmax(scores), op.permute_dims(v, [0, 2, 1, 3]))
    return op.permute_dims(out, [0, 2, 1, 3])


def _take(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """``fast`` take reads outside the table if an index is wrong: clip the index instead."""
    if call.attrs.mode != "fast":
        return _default(bb, call)
    return relax.op.take(*call.args, axis=call.attrs.axis, mode="clip")


def _view(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return relax.op.reshape(call.args[0], _shape(call))


LEGALIZE: dict[str, Legalize] = {
    **{name: _of_fp32(kernel) for name, kernel in KERNELS.items()},
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.softmax": _softmax,
    "relax.nn.attention": _attention,
    "relax.nn.attention_bias": _attention,
    "relax.take": _take,
    "relax.expand_dims": _view,
    "relax.squeeze": _view,
    "relax.flatten": _view,
}
"""For ``relax.transform.LegalizeOps``: operator name to what replaces a call of it."""


def _default(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return call.op.get_attr("FLegalize")(bb, call)


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape.values)


def _is_fp32(call: relax.Call) -> bool:
    return str(call.ty.dtype) == "float32"


def _on_last_axis(call: relax.Call, axes: list[int]) -> bool:
    return [int(a) for a in axes] in ([-1], [call.ty.ndim - 1])
