"""Attention from its parts: softmax(scale q k^T + bias) v becomes R.nn.attention on [B, S, H, D].

The product of the probabilities with v is where the parts are looked at. What stands between the
two products may come in any order that exporters produce: a factor on q, on k or on the scores,
masks that are added or filled in, guards against rows without a key, reshapes that join batch and
heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.values import Static, Tensor, Value, shape_of

LOWEST = float(np.finfo(np.float32).min)
"""Stands for minus infinity in a bias: a row with no key at all stays finite instead of NaN."""
MASKED = -1e4
"""A score filled with this or less has no weight after the softmax."""


@dataclass(frozen=True)
class _Scores:
    """scale q k^T + bias; q is [..., S, D], k is [..., D, T] as the product reads them."""

    q: Tensor
    k: Tensor
    scale: float = 1.0
    bias: relax.Expr | None = None


def attention_of(graph: Graph, call: relax.Call, probs: Tensor, v: Tensor) -> Tensor | None:
    """The product ``probs`` v as attention, or None if the probabilities are something else."""
    shape = shape_of(call)
    softmax = _softmax(graph, probs.var)
    if softmax is None or not _same_matrix(probs, shape_of(softmax.args[0])):
        return None
    scores = _scores(graph, softmax.args[0])
    if scores is None or any(t.broadcast for t in (scores.q, scores.k, v)):
        return None
    lead = _batch_and_heads(scores.q, [shape_of(softmax.args[0]), shape])
    if lead is None or any(prod(t.shape[:-2]) != prod(lead) for t in (scores.q, scores.k, v)):
        return None
    bias = None if scores.bias is None else _four_axes(graph, scores.bias, lead)
    if scores.bias is not None and bias is None:
        return None
    q = _moved(graph, scores.q, lead, (0, 2, 1, 3))
    k = _moved(graph, scores.k, lead, (0, 3, 1, 2))
    written = _write(graph, (q, k, _moved(graph, v, lead, (0, 2, 1, 3))), bias, scores.scale, None)
    return _reshaped(graph, written.permute((0, 2, 1, 3)) or written, shape)


def _attention(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """R.nn.attention as an importer writes it: its factor made explicit, its bias finite."""
    attrs = call.attrs
    if attrs.window_size is not None or not all(isinstance(a, Tensor) for a in args[:3]):
        return None
    scale = args[0].shape[-1] ** -0.5 if attrs.scale is None else float(attrs.scale)
    q, q_scale = _unscaled(graph, args[0])
    k, k_scale = _unscaled(graph, args[1])
    bias = args[3] if len(args) == 4 else None
    if isinstance(bias, Tensor):
        bias = bias.narrow if len(bias.narrow.shape) == 4 else bias
    expr = None if bias is None else _finite(graph, graph.read(bias))
    causal = attrs.causal_mask
    return _write(graph, (q, k, args[2]), expr, scale * q_scale * k_scale, causal)


def _write(
    graph: Graph,
    operands: tuple[Tensor, Tensor, Tensor],
    bias: relax.Expr | None,
    scale: float,
    causal: str | None,
) -> Tensor:
    """Attention on [B, S, H, D]; the result is a view of [B, S, H * D], for the next layer."""
    q, k, v = (graph.read(t) for t in operands)
    out = graph.emit(relax.op.nn.attention(q, k, v, bias=bias, scale=scale, causal_mask=causal))
    batch, seq, heads, dim = shape_of(out)
    joined = graph.tensor(relax.op.reshape(out, (batch, seq, heads * dim)))
    return _reshaped(graph, joined, (batch, seq, heads, dim))


def _reshaped(graph: Graph, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    found = value.reshape(shape)
    if found is None:
        found = Tensor.of(graph.emit(relax.op.reshape(graph.read(value), shape)))
    return found


def _moved(graph: Graph, value: Tensor, lead: tuple[int, int], axes: tuple[int, ...]) -> Tensor:
    split = _reshaped(graph, value, (*lead, *value.shape[-2:]))
    return split.permute(axes) or split


def _same_matrix(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a view only regroups the leading axes of a tensor of this shape."""
    return value.broadcast is None and value.view.in_order and value.shape[-2:] == shape[-2:]


def _softmax(graph: Graph, var: relax.Expr) -> relax.Call | None:
    """The softmax over the last axis that made ``var``, seen through guards against NaN."""
    source = graph.source(var)
    if not source.direct and _same_matrix(source, shape_of(source.var)):
        return _softmax(graph, source.var)
    guard = graph.producer(var, "where")
    if guard is not None and graph.scalar(guard.args[1]) == 0:
        softmax = _softmax(graph, guard.args[2])
        guarded = softmax is not None and _depends_on(graph, guard.args[0], softmax.args[0])
        return softmax if guarded else None
    call = graph.producer(var, "nn.softmax")
    if call is None or int(call.attrs.axis) % call.args[0].ty.ndim != call.args[0].ty.ndim - 1:
        return None
    return call


GUARD = ("isnan", "logical_not", "equal", "astype", "max", "nn.softmax")


def _depends_on(graph: Graph, var: relax.Expr, scores: relax.Expr) -> bool:
    """Whether a condition is computed from the scores alone, by what guards are made of."""
    wanted = graph.source(scores).var
    while not graph.source(var).var.same_as(wanted):
        call = graph.producer(graph.source(var).var, *GUARD)
        if call is None:
            return False
        var = call.args[0]
    return True


def _scores(graph: Graph, var: relax.Expr) -> _Scores | None:
    """Take apart what goes into the softmax; None if there is no product of two tensors below."""
    source = graph.source(var)
    if not source.direct:
        same = _same_matrix(source, shape_of(source.var))
        return _scores(graph, source.var) if same else None
    product = graph.matmul(var)
    if product is not None:
        q, q_scale = _unscaled(graph, product[0])
        k, k_scale = _unscaled(graph, product[1])
        return _Scores(q, k, q_scale * k_scale)
    call = graph.producer(var, "multiply", "divide", "add", "where")
    if call is None:
        return None
    if call.op.name == "relax.where":
        return _filled(graph, call)
    if call.op.name == "relax.add":
        return _added(graph, call)
    number = graph.scalar(call.args[1])
    inner = None if number is None else _scores(graph, call.args[0])
    if number is None or inner is None or inner.bias is not None or number == 0:
        return None
    factor = number if call.op.name == "relax.multiply" else 1 / number
    return replace(inner, scale=inner.scale * factor)


def _added(graph: Graph, call: relax.Call) -> _Scores | None:
    for inner, bias in (tuple(call.args), tuple(call.args)[::-1]):
        below = _scores(graph, inner) if graph.known(inner) is None else None
        if below is not None:
            return _with_bias(graph, below, _finite(graph, bias))
    return None


def _filled(graph: Graph, call: relax.Call) -> _Scores | None:
    """where(condition, scores, -large) and the other way round (masked_fill) as an added bias."""
    condition, yes, no = call.args
    zero, lowest = relax.const(0.0, "float32"), relax.const(LOWEST, "float32")
    for inner, fill, order in ((yes, no, (zero, lowest)), (no, yes, (lowest, zero))):
        number = graph.scalar(fill)
        below = _scores(graph, inner) if number is not None and number <= MASKED else None
        if below is not None:
            return _with_bias(graph, below, graph.emit(relax.op.where(condition, *order)))
    return None


def _with_bias(graph: Graph, scores: _Scores, bias: relax.Expr) -> _Scores:
    if scores.bias is not None:
        bias = graph.emit(relax.op.add(scores.bias, bias))
    return replace(scores, bias=bias)


def _finite(graph: Graph, bias: relax.Expr) -> relax.Expr:
    """The same bias with the lowest finite number in place of minus infinity."""
    array = graph.known(bias)
    if array is not None:
        known = np.maximum(array, np.asarray(LOWEST, array.dtype))
        return bias if np.array_equal(known, array) else graph.read(Static(known))
    source = graph.source(bias)
    call = graph.producer(source.var, "where")
    if call is None or not any(graph.scalar(a) == -np.inf for a in call.args[1:]):
        return bias
    lowest = relax.const(LOWEST, str(bias.ty.dtype))
    picks = [lowest if graph.scalar(a) == -np.inf else a for a in call.args[1:]]
    var = graph.once(("finite", source.var), lambda: relax.op.where(call.args[0], *picks))
    return graph.read(Tensor(var, source.view))


def _unscaled(graph: Graph, value: Tensor) -> tuple[Tensor, float]:
    """A value without its constant factor, and that factor."""
    call = graph.producer(value.var, "multiply", "divide")
    number = None if call is None else graph.scalar(call.args[1])
    if call is None or number is None or number == 0:
        return value, 1.0
    if shape_of(call.args[0]) != shape_of(value.var):
        return value, 1.0
    inner, scale = _unscaled(graph, Tensor(call.args[0], value.view, value.broadcast))
    return inner, scale * (number if call.op.name == "relax.multiply" else 1 / number)


def _batch_and_heads(q: Tensor, shapes: list[tuple[int, ...]]) -> tuple[int, int] | None:
    """Batch and heads: two leading axes, or one whose part out of the channels are the heads."""
    for shape in shapes:
        if len(shape) == 4:
            return shape[0], shape[1]
    if len(q.shape) != 3:
        return None
    channels = q.view.base_groups()[-1] if q.view.base else ()
    heads = prod(q.view.atoms[a] for a in q.view.groups()[0] if a in channels)
    return q.shape[0] // heads, heads


def _four_axes(graph: Graph, bias: relax.Expr, lead: tuple[int, int]) -> relax.Expr | None:
    """The bias as [B or 1, H or 1, S or 1, T]; None if it cannot be had without copying it out."""
    shape = shape_of(bias)
    if len(shape) < 4 and prod(shape[:-2]) == 1:
        four = (1,) * (4 - len(shape)) + shape
    elif len(shape) == 4:
        four = shape
    elif len(shape) == 3 and shape[0] == prod(lead):
        four = (*lead, *shape[1:])
    else:
        return None
    fits = all(n in (1, full) for n, full in zip(four[:2], lead, strict=True))
    if not fits or len(four) != 4 or four[-1] == 1:
        return None
    return bias if four == shape else graph.read(_reshaped(graph, graph.source(bias), four))


RULES: Mapping[str, Callable[..., Value | None]] = {
    "relax.nn.attention": _attention,
    "relax.nn.attention_bias": _attention,
}
