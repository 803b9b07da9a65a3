"""What kernels see of their inputs, as variables of a graph: made once however many layers read it."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from passes.formats import ROWS, Seen
from passes.rewrite import Rewriting
from targets.kernels.linear_int8 import GROUP
from targets.kernels.quantize import quantize_rows

QUANTIZE = "quantize_rows"
"""Name in the module of the kernels that quantise rows."""


class Inputs:
    """Inputs of one rewriting in the forms that kernels see."""

    def __init__(self) -> None:
        self._made: dict[tuple[relax.Expr, Seen], tuple[relax.Var, ...]] = {}
        self._whole: dict[tuple[relax.Expr, Seen], relax.Var] = {}

    def seen(self, graph: Rewriting, x: relax.Expr, how: Seen) -> Sequence[relax.Var]:
        """``x`` itself if it is seen as it is; codes, scales and zero points of its rows."""
        if how != ROWS:
            raise NotImplementedError(f"no kernel sees its input as {how}")
        if (x, how) not in self._made:
            rows = self._rows(graph, x)
            parts = (graph.emit(relax.TupleGetItem(rows, i)) for i in range(3))
            self._made[x, how] = tuple(parts)
        return self._made[x, how]

    def again(self, graph: Rewriting, value: relax.Expr) -> relax.Expr | None:
        """The variable for ``value`` if it makes what an earlier rewriting made kernels see."""
        call = graph.call(value, "call_tir")
        if call is not None and call.args[0].name_hint.startswith(QUANTIZE):
            return self._rows(graph, graph.new(call.args[1].fields[0]))
        return None

    def _rows(self, graph: Rewriting, x: relax.Expr) -> relax.Var:
        """The quantised rows of x, a tuple: codes, scales, zero points."""
        if (x, ROWS) not in self._whole:
            *lead, k = (int(d) for d in x.ty.shape.values)
            types = [
                relax.TensorType([*lead, -(-k // GROUP) * GROUP], "uint8"),
                relax.TensorType(lead, "float32"),
                relax.TensorType(lead, "int32"),
            ]
            kernel = graph.kernel(quantize_rows(lead, k), QUANTIZE)
            self._whole[x, ROWS] = graph.emit(relax.call_tir(kernel, [x], types), "rows")
        return self._whole[x, ROWS]
