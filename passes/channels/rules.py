"""What each operator says about channels: which positions of its operands and its result are the same.

An operator that is in no table here says nothing, so whatever it reads and makes stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax

from passes.channels.graph import ChannelGraph, Site
from passes.channels.reshapes import VIEWS, tie_view
from passes.model import Model
from passes.patterns import ELEMENTWISE, shape_of
from passes.rewrite import bindings_of

Rule = Callable[[ChannelGraph, relax.Var, Any], None]


def channel_graph(model: Model) -> ChannelGraph:
    """The channel graph of a canonical model."""
    graph = ChannelGraph(model)
    for param in model.main.params:
        graph.add(param)
    for spec, param in zip(model.inputs, model.main.params, strict=False):
        graph.pin(param, f"the model's input {spec.name} gives them")
    views: list[tuple[relax.Var, relax.Call]] = []
    for binding in bindings_of(model):
        var, value = binding.var, binding.value
        if _is_tensor(var):
            graph.add(var)
        for constant in _constants(value):
            graph.add(constant)
            graph.pin(constant, "a constant of the graph has them")
        if _name(value) in VIEWS:
            views.append((var, value))
        else:
            RULES.get(_name(value), _unknown)(graph, var, value)
    results = graph.value(graph.value(model.main.body.body))
    for spec, result in zip(model.outputs, results.fields, strict=True):
        graph.pin(result, f"the model's output {spec.name} shows them")
    for var, value in views:  # the choice among merged axes asks what is pinned
        tie_view(graph, var, value.args[0])
    return graph


def _elementwise(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    """Axes are aligned from the last; one of size 1 meets any other."""
    for operand in call.args:
        if _is_tensor(operand):
            _tie_aligned(graph, operand, var)
    if _name(call) == "relax.add" and call.args[0] in graph.sites:
        bias = graph.weight(call.args[1])
        if bias is not None and len(shape_of(call.args[1])) == 1:
            graph.add_bias(call.args[0], bias)


def _tie_aligned(graph: ChannelGraph, operand: relax.Expr, var: relax.Var, skip: int = 0) -> None:
    """Tie axes of equal size, counted from the last; ``skip`` of the last are left out."""
    shape, out = shape_of(operand), shape_of(var)
    for back in range(skip + 1, len(shape) + 1):
        if shape[-back] == out[-back]:
            graph.tie((operand, len(shape) - back), (var, len(out) - back))


def _matmul(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    x, y = call.args
    rank, y_rank, last = (len(shape_of(t)) for t in (x, y, var))
    if y_rank < 2 or (rank < 2 < y_rank):
        return _unknown(graph, var, call)
    weight = _transposed_weight(graph, y)
    if weight is None:
        reason = "a product of two activations, or with a weight that is not transposed, reads them"
        graph.pin(x, reason, rank - 1)
        graph.pin(y, reason, y_rank - 2)
    else:
        graph.sites[var] = Site(str(graph.weight(weight)), None, prod(shape_of(x)[:-1]))
        graph.produced.add((weight, 0))
    graph.tie((x, rank - 1), (y, y_rank - 2))
    graph.tie((y, y_rank - 1), (var, last - 1))
    if rank > 1:
        graph.tie((x, rank - 2), (var, last - 2))
    _tie_aligned(graph, x, var, skip=2)
    return _tie_aligned(graph, y, var, skip=2)


def _transposed_weight(graph: ChannelGraph, y: relax.Expr) -> relax.Expr | None:
    """The weight W [O, K] that ``y`` is the transpose of."""
    call = graph.value(y)
    if _name(call) != "relax.permute_dims" or len(shape_of(y)) != 2:
        return None
    swapped = call.attrs.axes is None or [int(a) % 2 for a in call.attrs.axes] == [1, 0]
    return call.args[0] if swapped and graph.weight(call.args[0]) is not None else None


def _conv2d(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    x, w = call.args
    attrs = call.attrs
    name, groups = graph.weight(w), int(attrs.groups)
    layouts = str(attrs.data_layout), str(attrs.out_layout or attrs.data_layout)
    if name is None or attrs.kernel_layout != "OIHW" or any(sorted(a) != _NCHW for a in layouts):
        return _unknown(graph, var, call)
    channels, outputs = (x, layouts[0].index("C")), (var, layouts[1].index("C"))
    graph.tie((x, layouts[0].index("N")), (var, layouts[1].index("N")))
    for tensor, layout in zip((x, var), layouts, strict=True):
        graph.pin(tensor, "they are places of an image", layout.index("H"), layout.index("W"))
    out_shape, w_shape = shape_of(var), shape_of(w)
    taps = w_shape[2] * w_shape[3]
    graph.sites[var] = Site(name, None, prod(out_shape) // w_shape[0], taps, groups)
    graph.produced.add((w, 0))
    graph.tie(outputs, (w, 0))
    if groups == 1:
        return graph.tie(channels, (w, 1))
    # a group of a grouped convolution stands or falls as a whole, so that groups stay alike
    inputs, rows = w_shape[1], w_shape[0] // groups
    graph.tie(outputs, outputs, None, np.arange(w_shape[0]) // rows * rows)
    return graph.tie(channels, outputs, None, np.arange(groups * inputs) // inputs * rows)


_NCHW = sorted("NCHW")


def _image(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    """Pools and resizes: places move, channels stay."""
    layout = str(call.attrs.layout)
    if sorted(layout) != _NCHW or str(getattr(call.attrs, "out_layout", "") or layout) != layout:
        return _unknown(graph, var, call)
    for axis, letter in enumerate(layout):
        if letter in "HW":
            graph.pin(call.args[0], "they are places of an image", axis)
            graph.pin(var, "they are places of an image", axis)
        else:
            graph.tie((call.args[0], axis), (var, axis))
    return None


def _reduction(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    x, rank = call.args[0], len(shape_of(call.args[0]))
    gone = set(range(rank) if call.attrs.axis is None else _axes(call.attrs.axis, rank))
    graph.pin(x, f"{_short(call)} goes over them", *gone)
    kept = [a for a in range(rank) if a not in gone]
    for at, axis in enumerate(kept):
        graph.tie((x, axis), (var, axis if bool(call.attrs.keepdims) else at))


def _norm(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    """Channels are the same before and after, but mean and variance would change with them."""
    rank = len(shape_of(var))
    for operand in call.args:
        _tie_aligned(graph, operand, var)
    graph.pin(var, "layer_norm takes mean and variance over them", *_axes(call.attrs.axes, rank))


def _softmax(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    _tie_aligned(graph, call.args[0], var)
    axes = _axes([call.attrs.axis], len(shape_of(var)))
    graph.pin(var, f"{_short(call)} normalises over them", *axes)


def _concat(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    parts = graph.value(call.args[0])
    if not isinstance(parts, relax.Tuple) or call.attrs.axis is None:
        return _unknown(graph, var, call)
    _tie_parts(graph, var, list(parts.fields), int(call.attrs.axis))
    return None


def _tie_parts(
    graph: ChannelGraph, whole: relax.Expr, parts: Sequence[relax.Expr], axis: int
) -> None:
    """Tie tensors to the one in which they lie one after another along an axis."""
    start = 0
    for part in parts:
        shape = shape_of(part)
        for at, size in enumerate(shape):
            along = at == axis % len(shape)
            graph.tie((part, at), (whole, at), None, slice(start, start + size) if along else None)
        start += shape[axis]


def _permute(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    x, rank = call.args[0], len(shape_of(var))
    order = range(rank - 1, -1, -1) if call.attrs.axes is None else _axes(call.attrs.axes, rank)
    for at, axis in enumerate(order):
        graph.tie((x, axis), (var, at))


def _take(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    """Look-up of rows of a table by numbers."""
    table, ids = call.args
    if graph.weight(table) is None or call.attrs.axis is None or len(shape_of(table)) != 2:
        return _unknown(graph, var, call)
    axis = int(call.attrs.axis) % 2
    if axis != 0:
        return _unknown(graph, var, call)
    graph.pin(table, "they are looked up by number", 0)
    graph.produced.add((table, 1))
    rank = len(shape_of(ids))
    for at in range(rank):
        graph.tie((ids, at), (var, at))
    return graph.tie((table, 1), (var, rank))


def _pad(graph: ChannelGraph, var: relax.Var, call: relax.Call) -> None:
    x = call.args[0]
    widths = np.reshape([int(w) for w in call.attrs.pad_width], (-1, 2))
    for axis, (before, after) in enumerate(widths):
        if before or after:
            graph.pin(x, "they are padded", axis)
            graph.pin(var, "they are padded", axis)
        else:
            graph.tie((x, axis), (var, axis))


def _item(graph: ChannelGraph, var: relax.Var, item: relax.TupleGetItem) -> None:
    source = graph.value(item.tuple_value)
    if isinstance(source, relax.Tuple):
        return _tie_aligned(graph, source.fields[item.index], var)
    if _name(source) != "relax.split":
        return _unknown(graph, var, source)
    whole, axis = source.args[0], int(source.attrs.axis)
    sizes = [int(t.shape.values[axis]) for t in source.ty.fields]
    start = sum(sizes[: item.index])
    for at, size in enumerate(shape_of(var)):
        along = at == axis % len(shape_of(var))
        graph.tie((var, at), (whole, at), None, slice(start, start + size) if along else None)
    return None


def _nothing(graph: ChannelGraph, var: relax.Var, value: relax.Expr) -> None:
    """A tuple: those who take it apart say what it means."""


def _unknown(graph: ChannelGraph, var: relax.Var, value: relax.Expr) -> None:
    """Pin everything that is read and made."""
    reason = f"{_short(value)} is an operator of which nothing is known"
    pending = [var, *relax.analysis.free_vars(value)]
    while pending:
        expr = pending.pop()
        if _is_tensor(expr) and (expr, 0) in graph.axes:
            graph.pin(expr, reason)
        elif not _is_tensor(expr) and expr is not var:
            pending += relax.analysis.free_vars(graph.value(expr))


def _constants(value: relax.Expr) -> list[relax.Expr]:
    """The tensors written into an expression."""
    found: list[relax.Expr] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, tvm.ir.GenericConst) and _is_tensor(expr):
            found.append(expr)

    relax.analysis.post_order_visit(value, visit)
    return found


def _axes(axes: Sequence[Any], rank: int) -> list[int]:
    return [int(a) % rank for a in axes]


def _is_tensor(expr: relax.Expr) -> bool:
    return isinstance(expr.ty, relax.TensorType)


def _name(value: relax.Expr) -> str:
    """Name of the operator, or of the kind of expression."""
    if isinstance(value, relax.Call):
        return str(getattr(value.op, "name", "a call"))
    return type(value).__name__


def _short(value: relax.Expr) -> str:
    return _name(value).split(".")[-1]


_ALIKE = ("astype", "floor", "ceil", "round", "sign", "log", "sin", "cos", "nn.softplus", "where")
_REDUCTIONS = ("mean", "sum", "max", "min", "prod", "variance", "std")
_IMAGES = (
    "nn.max_pool2d",
    "nn.avg_pool2d",
    "nn.adaptive_avg_pool2d",
    "nn.adaptive_max_pool2d",
    "image.resize2d",
)

RULES: Mapping[str, Rule] = {
    **dict.fromkeys([*ELEMENTWISE, *(f"relax.{op}" for op in _ALIKE)], _elementwise),
    **dict.fromkeys([f"relax.{op}" for op in _REDUCTIONS], _reduction),
    **dict.fromkeys([f"relax.{op}" for op in _IMAGES], _image),
    **dict.fromkeys(["relax.nn.softmax", "relax.nn.log_softmax"], _softmax),
    "relax.broadcast_to": lambda g, v, c: _tie_aligned(g, c.args[0], v),
    "relax.nn.conv2d": _conv2d,
    "relax.matmul": _matmul,
    "relax.nn.layer_norm": _norm,
    "relax.concat": _concat,
    "relax.permute_dims": _permute,
    "relax.take": _take,
    "relax.nn.pad": _pad,
    "relax.split": _nothing,
    "Tuple": _nothing,
    "TupleGetItem": _item,
}
