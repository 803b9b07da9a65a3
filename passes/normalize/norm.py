"""Layer normalisation over the last axis, whole or from its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from passes.normalize.elementwise import rebased
from passes.normalize.graph import Graph
from passes.normalize.values import Static, Tensor, Value


def _layer_norm(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    x, gamma, beta = args
    rank = len(x.shape)
    attrs = call.attrs
    one_axis = [int(a) % rank for a in attrs.axes] == [rank - 1]
    known = isinstance(gamma, Static) and isinstance(beta, Static)
    if not one_axis or not known or not attrs.center or not attrs.scale:
        return None
    return _write(graph, x, gamma, beta, float(attrs.epsilon))


def _write(graph: Graph, x: Tensor, gamma: Static, beta: Static, epsilon: float) -> Tensor:
    base = None if x.broadcast is not None else x.view.trailing()
    if base is None:
        x = Tensor.of(graph.read(x))
        base = x.view
    weight, bias = graph.weight(gamma, "norm.weight"), graph.weight(beta, "norm.bias")
    read = graph.read(Tensor(x.var, base))
    var = graph.emit(relax.op.nn.layer_norm(read, weight, bias, axes=[-1], epsilon=epsilon))
    return Tensor(var, rebased(x.view, base.shape))


def recognise(graph: Graph, total: Tensor) -> Tensor:
    """``total``, or R.nn.layer_norm if it is (x - mean) / sqrt(variance + eps) * gamma + beta."""
    shifted = graph.producer(total.var, "add")
    scaled = graph.producer(shifted.args[0], "multiply") if shifted is not None else None
    if shifted is None or scaled is None:
        return total
    gamma, beta = _vector(graph, scaled.args[1]), _vector(graph, shifted.args[1])
    found = _standardised(graph, scaled.args[0])
    if gamma is None or beta is None or found is None:
        return total
    x, epsilon = found
    written = _write(graph, Tensor.of(x), gamma, beta, epsilon)
    return Tensor(written.var, total.view, total.broadcast)


def _vector(graph: Graph, expr: relax.Expr) -> Static | None:
    array = graph.known(expr)
    if array is None or array.ndim == 0 or array.size != array.shape[-1] or array.size == 1:
        return None
    return Static(array.reshape(-1), expr.name if isinstance(expr, relax.Var) else "")


def _standardised(graph: Graph, var: relax.Expr) -> tuple[relax.Expr, float] | None:
    """x and epsilon if ``var`` is (x - mean(x)) / sqrt(variance(x) + epsilon)."""
    call = graph.producer(var, "divide", "multiply")
    if call is None:
        return None
    pairs = [tuple(call.args)]
    if call.op.name == "relax.multiply":
        pairs.append(tuple(call.args)[::-1])
    for centred, spread in pairs:
        x = _centred(graph, centred)
        inverse = call.op.name == "relax.multiply"
        epsilon = None if x is None else _epsilon(graph, spread, x, inverse)
        if epsilon is not None:
            return x, epsilon
    return None


def _centred(graph: Graph, var: relax.Expr) -> relax.Expr | None:
    """x if ``var`` is x - mean(x)."""
    call = graph.producer(var, "subtract")
    if call is None:
        return None
    averaged = _averaged(graph, call.args[1])
    return call.args[0] if averaged is not None and averaged.same_as(call.args[0]) else None


def _averaged(graph: Graph, var: relax.Expr, op: str = "mean") -> relax.Expr | None:
    """x if ``var`` is its mean over the last axis, which is kept with length 1."""
    call = graph.producer(var, op)
    if call is None or call.attrs.axis is None or not call.attrs.keepdims:
        return None
    rank = call.args[0].ty.ndim
    return call.args[0] if [int(a) % rank for a in call.attrs.axis] == [rank - 1] else None


def _epsilon(graph: Graph, var: relax.Expr, x: relax.Expr, inverse: bool) -> float | None:
    """epsilon if ``var`` is sqrt(variance(x) + epsilon), or one over it."""
    total = _under_root(graph, var, inverse)
    call = graph.producer(total, "add") if total is not None else None
    if call is None or not _is_variance(graph, call.args[0], x):
        return None
    return graph.scalar(call.args[1])


def _under_root(graph: Graph, var: relax.Expr, inverse: bool) -> relax.Expr | None:
    """y if ``var`` is sqrt(y), or 1 / sqrt(y) if inverse."""
    if inverse:
        one = graph.producer(var, "divide")
        if one is not None and graph.scalar(one.args[0]) == 1:
            return _under_root(graph, one.args[1], inverse=False)
    call = graph.producer(var, "rsqrt" if inverse else "sqrt", "power")
    if call is None:
        return None
    if call.op.name == "relax.power" and graph.scalar(call.args[1]) != (-0.5 if inverse else 0.5):
        return None
    return call.args[0]


def _is_variance(graph: Graph, var: relax.Expr, x: relax.Expr) -> bool:
    whole = _averaged(graph, var, "variance")
    if whole is not None:
        return bool(whole.same_as(x))
    squared = _averaged(graph, var)
    call = None if squared is None else graph.producer(squared, "power", "multiply", "square")
    if call is None:
        return False
    if call.op.name == "relax.power" and graph.scalar(call.args[1]) != 2:
        return False
    if call.op.name == "relax.multiply" and not call.args[0].same_as(call.args[1]):
        return False
    inner = _centred(graph, call.args[0])
    return inner is not None and bool(inner.same_as(x))


RULES: Mapping[str, Callable[..., Value | None]] = {"relax.nn.layer_norm": _layer_norm}
