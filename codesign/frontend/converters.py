"""Operators of PyTorch that TVM's importer gets wrong, converted here.

Its attention drops ``scale`` and refuses boolean masks; its layer normalisation needs a bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

LOWEST = float(np.finfo(np.float32).min)


def convert_attention(node: Any, importer: Any) -> relax.Var:
    """softmax(scale q k^T + mask) v on [..., S, D], as torch documents it.

    Args:
        node: the fx node of ``aten.scaled_dot_product_attention.default``.
        importer: TVM's importer of exported programs.
    """
    emit = importer.block_builder.emit
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    named = dict(zip(names, node.args, strict=False)) | node.kwargs
    q, k, v = (importer.env[named[name]] for name in ("query", "key", "value"))
    rank = q.ty.ndim
    if named.get("enable_gqa"):
        groups = _size(q, -3) // _size(k, -3)
        k, v = (emit(relax.op.repeat(t, groups, axis=rank - 3)) for t in (k, v))
    scale = named.get("scale") or _size(q, -1) ** -0.5
    order = [*range(rank - 2), rank - 1, rank - 2]
    scores = emit(relax.op.matmul(q, emit(relax.op.permute_dims(k, order))))
    scores = emit(relax.op.multiply(scores, relax.const(scale, str(q.ty.dtype))))
    if named.get("is_causal"):
        upper = np.triu(np.full((_size(q, -2), _size(k, -2)), LOWEST, np.float32), 1)
        scores = emit(relax.op.add(scores, relax.const(upper, str(q.ty.dtype))))
    if named.get("attn_mask") is not None:
        scores = emit(relax.op.add(scores, _additive(emit, importer.env[named["attn_mask"]], q)))
    return emit(relax.op.matmul(emit(relax.op.nn.softmax(scores, axis=-1)), v))


def convert_layer_norm(node: Any, importer: Any) -> relax.Var:
    """Layer normalisation over the last axes, with or without weight and bias.

    Args:
        node: the fx node of ``aten.layer_norm.default``.
        importer: TVM's importer of exported programs.
    """
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    named = dict(zip(names, node.args, strict=False)) | node.kwargs
    x = importer.env[named["input"]]
    shape, dtype = tuple(named["normalized_shape"]), str(x.ty.dtype)
    weight, bias = named.get("weight"), named.get("bias")
    gamma = relax.const(np.ones(shape, dtype)) if weight is None else importer.env[weight]
    beta = relax.const(np.zeros(shape, dtype)) if bias is None else importer.env[bias]
    axes = list(range(-len(shape), 0))
    epsilon = float(named.get("eps", 1e-5))
    return importer.block_builder.emit(
        relax.op.nn.layer_norm(x, gamma, beta, axes=axes, epsilon=epsilon)
    )


CONVERTERS = {
    "scaled_dot_product_attention.default": convert_attention,
    "layer_norm.default": convert_layer_norm,
}
"""For ``custom_convert_map`` of TVM's importer."""


def _additive(emit: Any, mask: relax.Expr, q: relax.Expr) -> relax.Expr:
    """A boolean mask (true takes part) as numbers to add; a float mask as it is."""
    if str(mask.ty.dtype) != "bool":
        return mask
    dtype = str(q.ty.dtype)
    lowest = relax.const(float(np.finfo(dtype).min), dtype)
    return emit(relax.op.where(mask, relax.const(0.0, dtype), lowest))


def _size(tensor: relax.Expr, axis: int) -> int:
    return int(tensor.ty.shape.values[axis])
