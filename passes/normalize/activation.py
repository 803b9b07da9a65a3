"""GELU from its parts: 0.5 x (1 + erf(x / sqrt 2)) or the tanh form, grouped in any way."""

from __future__ import annotations

import math

from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.values import Tensor, shape_of

TOLERANCE = 1e-4
CUBIC = 0.044715
"""Coefficient of x^3 in the tanh form (Hendrycks and Gimpel, arXiv:1606.08415)."""


def recognise(graph: Graph, product: Tensor) -> Tensor:
    """``product``, or R.nn.gelu / R.nn.gelu_tanh if that is what it multiplies to."""
    scale, factors = _factors(graph, product.var)
    if len(factors) != 2 or not _close(scale, 0.5):
        return product
    for x, gate in (factors, factors[::-1]):
        if shape_of(x) != shape_of(product.var):
            continue
        inner = _plus_one(graph, gate)
        if inner is not None and _is_erf(graph, inner, x):
            return Tensor(graph.emit(relax.op.nn.gelu(x)), product.view, product.broadcast)
        if inner is not None and _is_tanh(graph, inner, x):
            return Tensor(graph.emit(relax.op.nn.gelu_tanh(x)), product.view, product.broadcast)
    return product


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE)


def _factors(graph: Graph, var: relax.Expr) -> tuple[float, list[relax.Expr]]:
    """A product as one number times a list of variables, through nested products and quotients."""
    call = graph.producer(var, "multiply", "divide")
    if call is None:
        return 1.0, [var]
    left, right = call.args
    number = graph.scalar(right)
    if number is not None and number != 0:
        scale, factors = _factors(graph, left)
        return (scale * number if call.op.name == "relax.multiply" else scale / number), factors
    if call.op.name == "relax.divide":
        return 1.0, [var]
    (a, first), (b, second) = _factors(graph, left), _factors(graph, right)
    return a * b, first + second


def _plus_one(graph: Graph, var: relax.Expr) -> relax.Expr | None:
    call = graph.producer(var, "add")
    return call.args[0] if call is not None and graph.scalar(call.args[1]) == 1 else None


def _is_erf(graph: Graph, var: relax.Expr, x: relax.Expr) -> bool:
    erf = graph.producer(var, "erf")
    if erf is None:
        return False
    scale, factors = _factors(graph, erf.args[0])
    return _close(scale, math.sqrt(0.5)) and _same(factors, [x])


def _is_tanh(graph: Graph, var: relax.Expr, x: relax.Expr) -> bool:
    """tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
    tanh = graph.producer(var, "tanh")
    if tanh is None:
        return False
    scale, factors = _factors(graph, tanh.args[0])
    if not _close(scale, math.sqrt(2 / math.pi)) or len(factors) != 1:
        return False
    total = graph.producer(factors[0], "add")
    if total is None:
        return False
    return any(
        a.same_as(x) and _is_cube(graph, b, x)
        for a, b in (tuple(total.args), tuple(total.args)[::-1])
    )


def _is_cube(graph: Graph, var: relax.Expr, x: relax.Expr) -> bool:
    scale, factors = _factors(graph, var)
    powers: list[relax.Expr] = []
    for factor in factors:
        power = graph.producer(factor, "power")
        exponent = None if power is None else graph.scalar(power.args[1])
        if power is None or exponent not in (2, 3):
            powers.append(factor)
        else:
            powers.extend([power.args[0]] * int(exponent))
    return _close(scale, CUBIC) and _same(powers, [x, x, x])


def _same(got: list[relax.Expr], wanted: list[relax.Expr]) -> bool:
    return len(got) == len(wanted) and all(g.same_as(w) for g, w in zip(got, wanted, strict=True))
