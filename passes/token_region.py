"""Where a sequence may be shorter: what layers compute between two variables, token by token.

A shorter sequence is right only if every operator on the way either treats tokens one by one or is
self-attention. This looks at each of them, and finds the attention bias that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import relax

from passes.errors import PassError
from passes.model import Model
from passes.patterns import ELEMENTWISE, Flow, shape_of
from passes.rewrite import bindings_of

if TYPE_CHECKING:
    from passes.sites import Layer

ATTENTION = ("relax.nn.attention", "relax.nn.attention_bias")

_TOKENS = 1
"""The axis of the tokens: everything is [batch, tokens, ...]."""


@dataclass(frozen=True)
class Region:
    """The bindings between the input of a layer and the output of the last one.

    Attributes:
        start, end: the variables that enter and leave, float32 [batch, tokens, features].
        inside: what is computed between, ``end`` included.
        bias: what every attention adds to its scores, [batch, 1, 1, tokens]; None if nothing.
    """

    start: relax.Var
    end: relax.Var
    inside: frozenset[relax.Var]
    bias: relax.Var | None


def find_region(model: Model, layers: Sequence[Layer]) -> Region:
    """The region from the input of the first of some layers to the output of the last.

    Args:
        model: canonical.
        layers: in order of computation.

    Raises:
        PassError: something on the way needs the whole sequence, or is read outside the layers.
    """
    variables = {v.name: v for v in (*model.main.params, *(b.var for b in bindings_of(model)))}
    ends = layers[0].input, layers[-1].output
    if not set(ends) <= variables.keys():
        raise PassError(
            f"{layers[0].name} is not where it was",
            got=f"no variables called {' and '.join(n for n in ends if n not in variables)}",
            next="find the sites again after a pass that renames variables",
        )
    return _Follow(model, layers, variables[ends[0]], variables[ends[1]]).region()


class _Follow:
    """Follows the tokens from ``start`` to ``end``."""

    def __init__(
        self, model: Model, layers: Sequence[Layer], start: relax.Var, end: relax.Var
    ) -> None:
        self._flow = Flow(model)
        self._values = {b.var: b.value for b in bindings_of(model)}
        self._outputs = set(relax.analysis.free_vars(model.main.body.body))
        self._layers = layers
        self._start, self._end = start, end
        self._inside = self._between()

    def region(self) -> Region:
        shape = shape_of(self._start)
        if len(shape) != 3 or shape_of(self._end) != shape or not _is_fp32(self._start):
            raise self._refusal(
                f"its input is {self._start.ty}", "float32 [batch, tokens, features]"
            )
        names = {v.name for v in (self._start, *self._inside)}
        if any(layer.input not in names or layer.output not in names for layer in self._layers):
            raise self._refusal("the layers after it do not follow from each other", "one chain")
        for var in self._values:
            if var in self._inside:
                self._check(var)
        self._check_readers()
        return Region(self._start, self._end, frozenset(self._inside), self._bias())

    def _between(self) -> set[relax.Var]:
        """What depends on ``start`` and what ``end`` depends on."""
        after = {self._start}
        for var, value in self._values.items():
            if any(v in after for v in relax.analysis.free_vars(value)):
                after.add(var)
        found: set[relax.Var] = set()
        stack = [self._end]
        while stack:
            var = stack.pop()
            if var in after and var not in found and not var.same_as(self._start):
                found.add(var)
                stack.extend(relax.analysis.free_vars(self._values[var]))
        return found

    def _check(self, var: relax.Var) -> None:
        """Raise PassError unless the value of ``var`` treats tokens one by one, or is self-attention."""
        if isinstance(self._values[var], relax.TupleGetItem):
            return
        if (call := self._flow.call(var, *ELEMENTWISE)) is not None:
            good = all(self._meets(a, len(shape_of(var))) for a in call.args)
        elif (call := self._flow.call(var, "relax.matmul")) is not None:
            good = call.args[1] not in self._inside and len(shape_of(call.args[1])) == 2
        elif (call := self._flow.call(var, "relax.nn.layer_norm")) is not None:
            good = self._flow.normalised(var) is not None
        elif (call := self._flow.call(var, "relax.split")) is not None:
            rank = len(shape_of(call.args[0]))
            good = int(call.attrs.axis) % rank > _TOKENS
        elif (call := self._flow.call(var, "relax.reshape")) is not None:
            good = shape_of(var)[:2] == shape_of(call.args[0])[:2]
        else:
            call = self._flow.call(var, *ATTENTION)
            good = call is not None and _sees_all(call)
            good = good and all(self._is_inside(a) for a in self._operands(var))
        if not good:
            what = getattr(getattr(self._values[var], "op", None), "name", "another expression")
            raise self._refusal(
                f"{what.removeprefix('relax.')} at {var.name} does not treat tokens one by one",
                "linear layers, elementwise operators, normalisation of each token, self-attention",
            )

    def _operands(self, var: relax.Var) -> list[relax.Expr]:
        """Queries, keys and values of an attention."""
        return list(self._values[var].args[:3])

    def _meets(self, operand: relax.Expr, rank: int) -> bool:
        """Whether an operand of an elementwise operator has all its tokens, or the same for each."""
        if self._is_inside(operand):
            return len(shape_of(operand)) == rank
        shape = shape_of(operand)
        return len(shape) < rank - _TOKENS or shape[len(shape) - (rank - _TOKENS)] == 1

    def _is_inside(self, operand: relax.Expr) -> bool:
        return operand.same_as(self._start) or operand in self._inside

    def _check_readers(self) -> None:
        """Raise PassError if anything but ``end`` is read outside."""
        for var in (self._start, *self._inside):
            if var.same_as(self._end):
                continue
            others = [r.name for r in self._flow.readers(var) if r not in self._inside]
            if others or var in self._outputs:
                reader = others[0] if others else "the outputs"
                raise self._refusal(
                    f"{var.name} is read outside the layers, by {reader}",
                    "only the output of the last layer is read after it",
                )

    def _bias(self) -> relax.Var | None:
        calls = [c for v in self._inside if (c := self._flow.call(v, *ATTENTION)) is not None]
        found = {c.args[3] if len(c.args) > 3 else None for c in calls}
        if len(found) > 1:
            raise self._refusal("its layers add different biases to their scores", "one for all")
        bias = next(iter(found), None)
        if bias is None:
            return None
        batch, seq, _ = shape_of(self._start)
        allowed = (batch, 1, 1, seq)
        plain = isinstance(bias, relax.Var) and not self._is_inside(bias) and _is_fp32(bias)
        if not plain or shape_of(bias) != allowed:
            raise self._refusal(
                f"attention adds a bias of shape {list(shape_of(bias))} to its scores",
                f"{list(allowed)}: the same for all heads and queries of a sample",
            )
        return bias

    def _refusal(self, got: str, allowed: str) -> PassError:
        name = self._layers[0].name
        return PassError(f"no tokens can be merged from {name} on", got=got, allowed=allowed)


def _is_fp32(var: relax.Var) -> bool:
    return str(var.ty.dtype) == "float32"


def _sees_all(attention: relax.Call) -> bool:
    return attention.attrs.causal_mask is None and attention.attrs.window_size is None
