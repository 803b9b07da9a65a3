"""Activations from their parts, grouped in any way.

GELU is 0.5 x (1 + erf(x / sqrt 2)), or its tanh form; SiLU is x sigmoid(x). Hard sigmoid has no
operator of its own: clip(x / 6 + 1/2, 0, 1), and hard swish x times that.
"""

from __future__ import annotations

import math

from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.values import Tensor, shape_of

TOLERANCE = 1e-4
CUBIC = 0.044715
"""Coefficient of x^3 in the tanh form (Hendrycks and Gimpel, arXiv:1606.08415)."""


def recognise(graph: Graph, product: Tensor) -> Tensor:
    """``product``, or the activation that it multiplies to."""
    scale, factors = _factors(graph, product.var)
    shape = shape_of(product.var)
    for x, gate in (factors, factors[::-1]) if len(factors) == 2 else ():
        found = _gated(graph, scale, x, gate) if shape_of(x) == shape == shape_of(gate) else None
        if found is not None:
            return Tensor(graph.emit(found), product.view, product.broadcast)
    for gate in factors if len(factors) <= 2 and _close(scale, 1 / 6) else ():
        hard = _hard_sigmoid(graph, gate)
        others = [f for f in factors if f is not gate]
        if hard is not None:
            var = graph.emit(relax.op.multiply(*others, hard)) if others else hard
            return Tensor(var, product.view, product.broadcast)
    return product


def _gated(graph: Graph, scale: float, x: relax.Expr, gate: relax.Expr) -> relax.Expr | None:
    """GELU or SiLU if ``scale * x * gate`` is one."""
    sigmoid = graph.producer(gate, "sigmoid")
    if _close(scale, 1) and sigmoid is not None and sigmoid.args[0].same_as(x):
        return relax.op.nn.silu(x)
    inner = _plus_one(graph, gate) if _close(scale, 0.5) else None
    if inner is not None and _is_erf(graph, inner, x):
        return relax.op.nn.gelu(x)
    if inner is not None and _is_tanh(graph, inner, x):
        return relax.op.nn.gelu_tanh(x)
    return None


def _hard_sigmoid(graph: Graph, gate: relax.Expr) -> relax.Expr | None:
    """clip(x / 6 + 1/2, 0, 1) in place of clip(x + 3, 0, 6), which is six times that."""
    clip = graph.producer(gate, "clip")
    if clip is None or [float(a.value) for a in clip.args[1:]] != [0, 6]:
        return None
    add = graph.producer(clip.args[0], "add")
    if add is None or graph.scalar(add.args[1]) != 3:
        return None
    dtype = str(gate.ty.dtype)
    sixth = graph.emit(relax.op.multiply(add.args[0], relax.const(1 / 6, dtype)))
    shifted = graph.emit(relax.op.add(sixth, relax.const(0.5, dtype)))
    return graph.emit(relax.op.clip(shifted, 0.0, 1.0))


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
