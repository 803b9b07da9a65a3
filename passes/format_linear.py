"""Putting solved linear layers into the graph: as other weights, or as the kernels of their formats.

The bias addition stays a Relax operator, so that fusion merges it with what follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx

from passes.errors import PassError
from passes.formats import Place, Seen, Solved
from passes.model import Model
from passes.report import Change, Report
from passes.rewrite import Rewriting, Weights, require_own_weights, rewrite
from passes.seen import Inputs
from targets.target import Target

if TYPE_CHECKING:
    from passes.sites import Linear

NAME = "format_linear"


def format_linear(
    model: Model, linear: Linear, solved: Solved, target: Target
) -> tuple[Model, Report]:
    """``format_linears`` of one layer."""
    return format_linears(model, [(linear, solved)], target)


def format_linears(
    model: Model, layers: Sequence[tuple[Linear, Solved]], target: Target
) -> tuple[Model, Report]:
    """Give linear layers the format they were solved for.

    Formats that stay in place replace the weight. For any other ``matmul(x, permute_dims(W))``, or
    ``conv2d(x, W)``, becomes what the format writes, and W the weights that its kernel reads: W's name
    and a suffix for each.
    What kernels see of x (its quantised rows) is made once, however many layers read it. Exact
    relative to the dense graph with the effective weights and the inputs as the kernels see them.

    Args:
        model: a canonical model; layers of it may already have formats.
        layers: sites, each with what a solver made of its weight in this model.
        target: gives the outputs of a packed block.

    Raises:
        PassError: a weight of another shape or that its format cannot say, a weight that other parts of
            the graph read too.
    """
    weights = dict(model.weights)
    written: dict[str, _Layer] = {}
    packed: dict[str, NDArray[np.generic]] = {}
    for linear, solved in layers:
        _check(model, linear, solved)
        if linear.bias is not None and solved.bias is not None:
            weights[linear.bias] = solved.bias
        if solved.format.in_place:
            shape = model.weights[linear.weight].shape
            weights[linear.weight] = solved.weight.reshape(shape)
            continue
        parts = solved.format.pack(solved, linear, target.block)
        names = {suffix: f"{linear.weight}.{suffix}" for suffix in parts}
        packed |= {names[suffix]: array for suffix, array in parts.items()}
        written[linear.weight] = _Layer(linear, solved, target, tuple(names.values()))
    weights |= packed
    edit = _FormatEdit(written, weights)
    new = rewrite(model, weights, edit, name=NAME)
    edit.require_done()
    changes = (Change(linear.name, NAME, str(solved.format)) for linear, solved in layers)
    return new, Report(NAME, tuple(changes))


def _check(model: Model, linear: Linear, solved: Solved) -> None:
    names = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    require_own_weights(model, linear.name, names)
    rows, *inputs = model.weights[linear.weight].shape
    shape = (rows, prod(inputs))
    if solved.weight.shape != shape:
        raise PassError(
            f"{linear.name} was solved for another shape",
            got=str(solved.weight.shape),
            allowed=str(shape),
            next="solve it on the model as it is after the passes before",
        )


class _Layer:
    """One layer to be written, with the names of its packed weights."""

    def __init__(
        self, site: Linear, solved: Solved, target: Target, weights: tuple[str, ...]
    ) -> None:
        self.site = site
        self.solved = solved
        self.target = target
        self.weights = weights

    def write(self, graph: _Writer, x: relax.Expr, ty: relax.TensorType) -> relax.Expr:
        place = Place(self.site, self.target, ty)
        weights = [graph.weight(name) for name in self.weights]
        return self.solved.format.write(graph, x, weights, self.solved, place)


class _Writer:
    """What a format sees of the rewriting; see `passes.formats.Writer`."""

    def __init__(self, graph: Rewriting, inputs: Inputs) -> None:
        self._graph = graph
        self._inputs = inputs

    def kernel(self, func: tirx.PrimFunc, name: str) -> relax.GlobalVar:
        return self._graph.kernel(func, name)

    def emit(self, expr: relax.Expr, name: str = "") -> relax.Var:
        return self._graph.emit(expr, name)

    def seen(
        self, x: relax.Expr, how: Seen, weights: Sequence[relax.Var] = ()
    ) -> Sequence[relax.Var]:
        return self._inputs.seen(self._graph, x, how, weights)

    def weight(self, name: str) -> relax.Var:
        """A parameter of the new graph."""
        return self._graph.weight(name)


class _FormatEdit:
    """Writes the formats in place of the products, and shares what they see of their inputs."""

    def __init__(self, layers: Mapping[str, _Layer], weights: Weights) -> None:
        self._layers = layers
        self._todo = set(layers)
        self._inputs = Inputs(weights)

    def __call__(self, graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        again = self._inputs.again(graph, value)
        if again is not None:
            return again
        weight = graph.linear_weight(value) or graph.conv_weight(value)
        if weight is None or weight not in self._layers:
            return None
        self._todo.discard(weight)
        writer = _Writer(graph, self._inputs)
        return self._layers[weight].write(writer, graph.new(value.args[0]), value.ty)

    def require_done(self) -> None:
        """Raise PassError if a layer was not found in the graph."""
        if self._todo:
            raise PassError(
                "a linear layer is not in the graph in its canonical form",
                got=", ".join(sorted(self._todo)),
                allowed="matmul(x, permute_dims(weight)), or conv2d(x, weight) without groups",
                next="normalize the model first",
            )
