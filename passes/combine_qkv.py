"""Three linear layers that make q, k and v of one attention become one layer and a split.

One matrix product of three times the width uses the machine better than three, and the attention
kernel can then read its heads where the product wrote them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.model import Model
from passes.patterns import AttentionMatch, Flow, LinearMatch
from passes.rewrite import Rewriting, rewrite

Array = NDArray[np.generic]


@dataclass(frozen=True)
class _Combined:
    """One attention whose three layers are joined; rows of the weight are ordered q, k, v."""

    core: AttentionMatch
    x: relax.Var
    weight: str
    bias: str | None
    arrays: dict[str, Array]


def combine_qkv(model: Model) -> Model:
    """The same model with one linear layer for q, k and v wherever the three read the same x.

    The joined weight is [3 * H * D, C], named after that of q with "+k+v" appended; a bias that
    only some of the three have is filled up with zeros. Attention whose q, k and v come from
    different tensors, or from a joined layer already, is left alone.

    Args:
        model: in canonical form.

    Raises:
        PassError: the model is not in canonical form.
    """
    plan = _plan(model)
    if not plan:
        return model
    weights = dict(model.weights)
    for one in plan.values():
        weights |= one.arrays

    def edit(rewriting: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        return _write(rewriting, plan[var], value) if var in plan else None

    return rewrite(model, weights, edit, name="combine_qkv")


def _plan(model: Model) -> dict[relax.Var, _Combined]:
    """What to join, by the variable of each attention."""
    flow = Flow(model)
    plan: dict[relax.Var, _Combined] = {}
    for core in flow.attentions():
        found = [flow.linear(v) for v in (core.q, core.k, core.v)]
        parts = [p for p in found if p is not None and len(flow.readers(p.y)) == 1]
        if len(parts) == 3 and all(p.x.same_as(parts[0].x) for p in parts):
            plan[core.attention] = _combined(model, core, parts)
    return plan


def _combined(model: Model, core: AttentionMatch, parts: list[LinearMatch]) -> _Combined:
    rows = [model.weights[p.weight] for p in parts]
    weight = f"{parts[0].weight}+k+v"
    arrays: dict[str, Array] = {weight: np.concatenate(rows)}
    named = [p.bias for p in parts if p.bias is not None]
    bias = f"{named[0]}+k+v" if named else None
    if bias is not None:
        arrays[bias] = np.concatenate(
            [
                np.zeros(len(w), w.dtype) if p.bias is None else model.weights[p.bias]
                for p, w in zip(parts, rows, strict=True)
            ]
        )
    return _Combined(core, parts[0].x, weight, bias, arrays)


def _write(rewriting: Rewriting, one: _Combined, attention: relax.Call) -> relax.Expr:
    """The joined layer, its thirds reshaped to heads, and the attention on them."""
    op, emit = relax.op, rewriting.emit
    transposed = emit(op.permute_dims(rewriting.weight(one.weight), [1, 0]))
    y = emit(op.matmul(rewriting.new(one.x), transposed))
    if one.bias is not None:
        y = emit(op.add(y, rewriting.weight(one.bias)))
    parts = emit(op.split(y, 3, axis=-1))
    heads = [
        emit(op.reshape(emit(relax.TupleGetItem(parts, i)), operand.ty.shape))
        for i, operand in enumerate(attention.args[:3])
    ]
    rest = [rewriting.new(a) for a in attention.args[3:]]
    return relax.Call(attention.op, [*heads, *rest], attention.attrs, attention.ty_args)
