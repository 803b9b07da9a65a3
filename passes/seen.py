"""What kernels see of their inputs, as variables of a graph: made once however many layers read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from tvm import relax, tirx

from passes.formats import BFLOAT16, FLOAT16, ROWS, Seen
from passes.rewrite import Rewriting, Weights
from targets.kernels.linear_bf16 import round_to_bf16
from targets.kernels.linear_fp16 import round_to_fp16
from targets.kernels.linear_int8 import GROUP
from targets.kernels.quantize import quantize_rows
from targets.kernels.quantize_static import pad_groups, quantize_static

QUANTIZE = "quantize_rows"
"""Name in the module of the kernels that quantise rows."""

QUANTIZE_STATIC, PAD = "quantize_static", "pad_groups"
"""Names of those that quantise by fixed scales, and that pad such codes to whole groups."""

ROUND, ROUND_FP16 = "round_to_bf16", "round_to_fp16"
"""Names of those that round to bfloat16 and to float16."""

_How: TypeAlias = tuple[str, bytes]
"""A kernel's name, and the weights that it reads, if any."""

_ROWS: _How = (QUANTIZE, b"")
_PAD: _How = (PAD, b"")
_ROUND: _How = (ROUND, b"")
_ROUND_FP16: _How = (ROUND_FP16, b"")

_Maker: TypeAlias = Callable[[Rewriting, relax.Expr, Sequence[relax.Var]], relax.Var]
"""Makes what kernels see of an input, with the weights that it takes."""


class Inputs:
    """Inputs of one rewriting in the forms that kernels see.

    Args:
        weights: of the new model; they tell codes of one scale from those of another.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._made: dict[tuple[relax.Expr, _How], relax.Var] = {}
        self._parts: dict[relax.Var, tuple[relax.Var, ...]] = {}

    def seen(
        self, graph: Rewriting, x: relax.Expr, how: Seen, weights: Sequence[relax.Var] = ()
    ) -> Sequence[relax.Var]:
        """Codes, scales and zero points of the rows of x; its codes alone, if static; x rounded."""
        if how == BFLOAT16:
            return (self._bf16(graph, x),)
        if how == FLOAT16:
            return (self._fp16(graph, x),)
        if how == ROWS:
            rows = self._rows(graph, x)
            if rows not in self._parts:
                parts = (graph.emit(relax.TupleGetItem(rows, i)) for i in range(3))
                self._parts[rows] = tuple(parts)
            return self._parts[rows]
        if how.static:
            return (self.groups(graph, self._codes(graph, x, weights)),)
        raise NotImplementedError(f"no kernel sees its input as {how}")

    def again(self, graph: Rewriting, value: relax.Expr) -> relax.Expr | None:
        """The variable for ``value`` if it makes what an earlier rewriting made kernels see."""
        call = graph.call(value, "call_tir")
        if call is None:
            return None
        name = call.args[0].name_hint
        makers: dict[str, _Maker] = {
            QUANTIZE: self._rows,
            QUANTIZE_STATIC: self._codes,
            PAD: self.groups,
            ROUND: self._bf16,
            ROUND_FP16: self._fp16,
        }
        for prefix, make in makers.items():
            if name.startswith(prefix):
                x, *weights = (graph.new(a) for a in call.args[1].fields)
                return make(graph, x, weights)
        return None

    def _rows(
        self, graph: Rewriting, x: relax.Expr, weights: Sequence[relax.Var] = ()
    ) -> relax.Var:
        """The quantised rows of x, a tuple: codes, scales, zero points."""
        if (x, _ROWS) not in self._made:
            *lead, k = _shape(x)
            types = [
                relax.TensorType([*lead, -(-k // GROUP) * GROUP], "uint8"),
                relax.TensorType(lead, "float32"),
                relax.TensorType(lead, "int32"),
            ]
            kernel = graph.kernel(quantize_rows(lead, k), QUANTIZE)
            self._made[x, _ROWS] = graph.emit(relax.call_tir(kernel, [x], types), "rows")
        return self._made[x, _ROWS]

    def _codes(self, graph: Rewriting, x: relax.Expr, weights: Sequence[relax.Var]) -> relax.Var:
        """The codes of x by the scales and the zero points in ``weights``."""
        key = (x, (QUANTIZE_STATIC, b"".join(self._weights[w.name].tobytes() for w in weights)))
        if key not in self._made:
            kernel = graph.kernel(quantize_static(_shape(x)), QUANTIZE_STATIC)
            call = relax.call_tir(kernel, [x, *weights], relax.TensorType(_shape(x), "uint8"))
            self._made[key] = graph.emit(call, "codes")
        return self._made[key]

    def _bf16(
        self, graph: Rewriting, x: relax.Expr, weights: Sequence[relax.Var] = ()
    ) -> relax.Var:
        """The bits of x in bfloat16, in whole pairs."""
        return self._rounded(graph, x, _ROUND, round_to_bf16)

    def _fp16(
        self, graph: Rewriting, x: relax.Expr, weights: Sequence[relax.Var] = ()
    ) -> relax.Var:
        """x in float16, filled up to long chunks."""
        return self._rounded(graph, x, _ROUND_FP16, round_to_fp16)

    def _rounded(
        self,
        graph: Rewriting,
        x: relax.Expr,
        how: _How,
        rounding: Callable[[Sequence[int], int], tirx.PrimFunc],
    ) -> relax.Var:
        """What a kernel of one input makes of x."""
        if (x, how) not in self._made:
            *lead, k = _shape(x)
            func = rounding(lead, k)
            made = func.params[1]
            ty = relax.TensorType([int(d) for d in made.shape], str(made.dtype))
            call = relax.call_tir(graph.kernel(func, how[0]), [x], ty)
            self._made[x, how] = graph.emit(call, "rounded")
        return self._made[x, how]

    def groups(
        self, graph: Rewriting, q: relax.Expr, weights: Sequence[relax.Var] = ()
    ) -> relax.Var:
        """Codes [*lead, k] as whole groups."""
        *lead, k = _shape(q)
        if k % GROUP == 0:
            return q
        if (q, _PAD) not in self._made:
            wide = relax.TensorType([*lead, -(-k // GROUP) * GROUP], "uint8")
            kernel = graph.kernel(pad_groups([*lead, k]), PAD)
            self._made[q, _PAD] = graph.emit(relax.call_tir(kernel, [q], wide), "groups")
        return self._made[q, _PAD]


def _shape(x: relax.Expr) -> list[int]:
    return [int(d) for d in x.ty.shape.values]
