"""Vectors that multiply or shift the result of a layer become part of its weight and bias.

That is where batch norm goes (Jacob et al., arXiv:1712.05877, section 3.2), in whatever parts it
came, and layer scale too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.model import Model
from passes.patterns import Flow, shape_of
from passes.rewrite import Rewriting, rewrite

OPERATORS = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide")


@dataclass
class _Chain:
    """scale * (W x) + shift, and the variables it is computed in."""

    weight: str
    bias: str
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    vars: list[relax.Var] = field(default_factory=list)

    def apply(self, op: str, vector: NDArray[np.float64]) -> None:
        if op == "relax.add":
            self.shift = self.shift + vector
        elif op == "relax.subtract":
            self.shift = self.shift - vector
        else:
            factor = vector if op == "relax.multiply" else 1 / vector
            self.scale, self.shift = self.scale * factor, self.shift * factor


def fold_scales(model: Model) -> Model:
    """The model with vectors folded into the linear layer or convolution whose result they change.

    Args:
        model: canonical but for these vectors. A result that something else reads too is left as
            it is.
    """
    flow = Flow(model)
    products = {var: found for var in flow.order if (found := _chain(flow, model, var))}
    folded = {c.vars[-1]: (var, c) for var, c in products.items() if c.vars}
    if not folded:
        return model
    weights = dict(model.weights)
    for _, chain in folded.values():
        array: NDArray[Any] = weights[chain.weight]
        rows = chain.scale.reshape(-1, *[1] * (array.ndim - 1))
        weights[chain.weight] = (array * rows).astype(array.dtype)
        weights[chain.bias] = chain.shift.astype(array.dtype)

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in folded:
            return None
        product, chain = folded[var]
        return relax.op.add(graph.new(product), graph.weight(chain.bias))

    return rewrite(model, weights, edit, name="fold scales")


def _chain(flow: Flow, model: Model, product: relax.Var) -> _Chain | None:
    """What is done to a product with vectors alone, if that is more than to add one."""
    weight = _weight(flow, product)
    if weight is None:
        return None
    outputs = shape_of(product)[-1]
    chain = _Chain(weight, f"{weight}.bias", np.ones(outputs), np.zeros(outputs))
    at, ops = product, []
    while (reader := flow.only_reader(at)) is not None:
        call = flow.call(reader, *OPERATORS)
        vector = flow.weight(call.args[1], 1) if call is not None else None
        if call is None or vector is None or model.weights[vector].shape != (outputs,):
            break
        if not call.args[0].same_as(at):
            break
        chain.apply(call.op.name, model.weights[vector].astype(np.float64))
        chain.bias = vector if call.op.name == "relax.add" else chain.bias
        chain.vars.append(reader)
        ops.append(call.op.name)
        at = reader
    return chain if ops not in ([], ["relax.add"]) else None


def _weight(flow: Flow, product: relax.Var) -> str | None:
    """The weight of which ``product`` is the product: [N, K] of a layer, or of a convolution."""
    conv = flow.call(product, "relax.nn.conv2d")
    if conv is not None:
        return flow.weight(conv.args[1], 4) if conv.attrs.out_layout == "NHWC" else None
    matmul = flow.call(product, "relax.matmul")
    turned = None if matmul is None else flow.call(matmul.args[1], "relax.permute_dims")
    return None if turned is None else flow.weight(turned.args[0], 2)
