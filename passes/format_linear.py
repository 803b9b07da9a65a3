"""Putting solved linear layers into the graph: as other weights, or as sparse and int8 kernels.

The bias addition stays a Relax operator, so that fusion merges it with what follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.errors import PassError
from passes.formats import INT8_GROUP, Solved
from passes.model import Model
from passes.report import Change, Report
from passes.rewrite import Rewriting, require_own_weights, rewrite
from passes.solve.gptq import codes_of
from targets.kernels.linear_int8 import dense_int8, pack_int8
from targets.kernels.linear_sparse import pack_sparse, sparse
from targets.kernels.linear_sparse_int8 import pack_sparse_int8, sparse_int8
from targets.kernels.quantize import quantize_rows
from targets.target import Target

if TYPE_CHECKING:
    from passes.sites import Linear

NAME = "format_linear"

QUANTIZE = "quantize_rows"
"""Name in the module of the kernels that quantise activations."""

Packed = dict[str, NDArray[np.generic]]
"""Weights of one linear kernel by suffix, in the order of the kernel's parameters."""


def format_linear(
    model: Model, linear: Linear, solved: Solved, target: Target
) -> tuple[Model, Report]:
    """``format_linears`` of one layer."""
    return format_linears(model, [(linear, solved)], target)


def format_linears(
    model: Model, layers: Sequence[tuple[Linear, Solved]], target: Target
) -> tuple[Model, Report]:
    """Give linear layers the format they were solved for.

    Dense float32 replaces the weight. Otherwise ``matmul(x, permute_dims(W))`` becomes a call of
    the sparse, int8 or sparse int8 kernel, and W the weights that it reads: ``W.values``,
    ``W.index`` (sparse), ``W.q`` (dense int8), ``W.scale``, ``W.sum`` (int8). Rows of x are
    quantised once, however many int8 layers read them. Exact relative to the dense graph with the
    effective weights, and for int8 with fake-quantised rows.

    Args:
        model: a canonical model; layers of it may already have formats.
        layers: sites, each with what a solver made of its weight in this model.
        target: gives the outputs of a packed block.

    Raises:
        PassError: a weight of another shape or off its int8 grid, a block that is not the target's,
            a weight that other parts of the graph read too.
    """
    packed: dict[str, tuple[Solved, Packed]] = {}
    weights = dict(model.weights)
    for linear, solved in layers:
        _check(model, linear, solved, target)
        if linear.bias is not None and solved.bias is not None:
            weights[linear.bias] = solved.bias
        if solved.format.bits == 32 and solved.mask is None:
            weights[linear.weight] = solved.weight
        else:
            parts = {f".{k}": v for k, v in _packed(solved, target.block).items()}
            packed[linear.weight] = (solved, parts)
    new = {**weights, **{n + s: a for n, (_, p) in packed.items() for s, a in p.items()}}
    edit = _FormatEdit({n: _Kernel.of(s, target.block, tuple(p)) for n, (s, p) in packed.items()})
    written = rewrite(model, new, edit, name=NAME)
    edit.require_done()
    changes = (Change(linear.name, NAME, str(solved.format)) for linear, solved in layers)
    return written, Report(NAME, tuple(changes))


def _check(model: Model, linear: Linear, solved: Solved, target: Target) -> None:
    names = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    require_own_weights(model, linear.name, names)
    shape = model.weights[linear.weight].shape
    if solved.weight.shape != shape:
        raise PassError(
            f"{linear.name} was solved for another shape",
            got=str(solved.weight.shape),
            allowed=str(shape),
            next="solve it on the model as it is after the passes before",
        )
    if solved.mask is not None and solved.format.block != target.block:
        raise PassError(
            f"{linear.name} was solved for another block of outputs",
            got=str(solved.format.block),
            allowed=f"{target.block} for {target.name}",
        )
    if solved.format.bits == 8 and solved.scale is None:
        raise PassError(f"{linear.name} is to be int8 and has no scale")


def _packed(solved: Solved, block: int) -> Packed:
    """The arrays that the kernel of the format reads, in its order."""
    if solved.scale is None:
        assert solved.mask is not None
        values, index = pack_sparse(solved.weight, solved.mask, block)
        return {"values": values, "index": index}
    codes = codes_of(solved.weight, solved.scale)
    if solved.mask is None:
        q, total = pack_int8(codes, block)
        return {"q": q, "scale": solved.scale, "sum": total}
    q, index, total = pack_sparse_int8(codes, solved.mask, block)
    return {"values": q, "index": index, "scale": solved.scale, "sum": total}


@dataclass(frozen=True)
class _Kernel:
    """The kernel of one formatted layer: its shape but for the leading dimensions of its input."""

    bits: int
    outputs: int
    inputs: int
    block: int
    kept: int | None
    suffixes: tuple[str, ...]

    @classmethod
    def of(cls, solved: Solved, block: int, suffixes: tuple[str, ...]) -> _Kernel:
        outputs, inputs = solved.weight.shape
        kept = None if solved.mask is None else int(solved.mask[0].sum())
        return cls(solved.format.bits, outputs, inputs, block, kept, suffixes)

    def emit(self, graph: Rewriting, lead: tuple[int, ...]) -> relax.GlobalVar:
        shape = (lead, self.inputs, self.outputs, self.block)
        if self.bits == 32:
            assert self.kept is not None
            return graph.kernel(sparse(*shape, self.kept), "linear_sparse")
        if self.kept is None:
            return graph.kernel(dense_int8(*shape), "linear_int8")
        return graph.kernel(sparse_int8(*shape, self.kept), "linear_sparse_int8")


class _FormatEdit:
    """Puts the kernels in place of the matrix products, and shares quantised rows among them."""

    def __init__(self, kernels: Mapping[str, _Kernel]) -> None:
        self._kernels = kernels
        self._todo = set(kernels)
        self._quantised: dict[relax.Expr, relax.Var] = {}

    def __call__(self, graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        call = graph.call(value, "call_tir")
        if call is not None and call.args[0].name_hint.startswith(QUANTIZE):
            return self._rows(graph, graph.new(call.args[1].fields[0]))
        weight = graph.linear_weight(value)
        if weight is None or weight not in self._kernels:
            return None
        self._todo.discard(weight)
        kernel = self._kernels[weight]
        x = graph.new(value.args[0])
        *lead, _ = (int(d) for d in x.ty.shape.values)
        operands = [x]
        if kernel.bits == 8:
            rows = self._rows(graph, x)
            operands = [graph.emit(relax.TupleGetItem(rows, i)) for i in range(3)]
        operands += [graph.weight(weight + suffix) for suffix in kernel.suffixes]
        return relax.call_tir(kernel.emit(graph, tuple(lead)), operands, value.ty)

    def _rows(self, graph: Rewriting, x: relax.Expr) -> relax.Var:
        """The quantised rows of x: codes, scales, zero points; made once."""
        if x not in self._quantised:
            *lead, k = (int(d) for d in x.ty.shape.values)
            width = -(-k // INT8_GROUP) * INT8_GROUP
            types = [
                relax.TensorType([*lead, width], "uint8"),
                relax.TensorType(lead, "float32"),
                relax.TensorType(lead, "int32"),
            ]
            kernel = graph.kernel(quantize_rows(lead, k), QUANTIZE)
            self._quantised[x] = graph.emit(relax.call_tir(kernel, [x], types), "rows")
        return self._quantised[x]

    def require_done(self) -> None:
        """Raise PassError if a layer was not found in the graph."""
        if self._todo:
            raise PassError(
                "a linear layer is not in the graph in its canonical form",
                got=", ".join(sorted(self._todo)),
                allowed="matmul(x, permute_dims(weight))",
                next="normalize the model first",
            )
