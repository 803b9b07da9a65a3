"""Operator replacement: GELU and the exponential of softmax by short polynomials, where that is worth its error.

GELU x Phi(x) needs a division or an exponential for each number. Phi(x) - 1/2 is close to an odd
polynomial of x clipped to where that reaches 1/2, which is a handful of multiply-adds (as the i-GELU of
I-BERT, Kim et al. 2021, with a higher degree). The softmax of attention divides by a sum of
exponentials, so what all of them have in common cancels: a quadratic for the mantissa is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import relax

from passes.errors import PassError
from passes.lower_attention import with_core
from passes.model import Model
from passes.patterns import Flow
from passes.report import Change, Refusal, Report
from passes.rewrite import Rewriting, rewrite
from passes.sites import FFN, Attention
from targets.kernels.activation import SHORT_EXP_ERROR
from targets.kernels.attention import attention_short

if TYPE_CHECKING:
    from targets.target import Target

NAME = "approximate"

LIMIT = 3.05
"""Where x is clipped: the polynomial is 1/2 there."""

COEFFICIENTS = (-1.49424271e-4, 4.41677900e-3, -5.20553044e-2, 3.86253684e-1)
"""Phi(x) - 1/2 over x, in powers of x^2, the highest first: minimax for x Phi(x), by linear programming."""

ERROR = 3.6e-3
"""Largest deviation from GELU, of max(1, abs(x)), for any x."""

Emit = Callable[[relax.Expr], relax.Expr]


@dataclass(frozen=True)
class ApproximateConfig:
    """What is offered.

    Attributes:
        operators: activations that are replaced.
        softmax: whether the exponentials of attention are.
    """

    operators: tuple[str, ...] = ("gelu", "gelu_tanh")
    softmax: bool = True


def approximate(model: Model, site: FFN | Attention) -> tuple[Model, Report]:
    """Replace the GELU of an FFN within ``ERROR``, or the exponentials of attention within theirs.

    Raises:
        PassError: there is no GELU between the two layers, or the attention is not canonical.
    """
    return _gelu(model, site) if isinstance(site, FFN) else _softmax(model, site)


def _softmax(model: Model, site: Attention) -> tuple[Model, Report]:
    written = with_core(model, site, attention_short, "attention_short")
    detail = f"quadratic exponential, error {SHORT_EXP_ERROR:g}"
    return written, Report(NAME, (Change(site.name, NAME, detail),))


def _gelu(model: Model, ffn: FFN) -> tuple[Model, Report]:
    found = gelu_of(Flow(model), ffn)
    if found is None:
        raise PassError(
            f"{ffn.name} has no GELU to replace", got=ffn.activation, allowed="gelu, gelu_tanh"
        )

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        return polynomial(graph.new(value.args[0]), graph.emit) if var.same_as(found) else None

    written = rewrite(model, model.weights, edit, name=NAME)
    return written, Report(NAME, (Change(ffn.name, NAME, f"polynomial, error {ERROR:g}"),))


def gelu_of(flow: Flow, ffn: FFN) -> relax.Var | None:
    """The variable between the layers of an FFN that is the GELU of another."""
    for var in flow.order:
        call = flow.call(var, "relax.nn.gelu", "relax.nn.gelu_tanh")
        up = None if call is None else flow.linear(call.args[0])
        if up is not None and up.weight == ffn.up.weight:
            return var
    return None


def polynomial(x: relax.Expr, emit: Emit) -> relax.Expr:
    """``x (1/2 + c P(c^2))`` with c = x clipped to ``LIMIT``, as elementwise operators."""
    op = relax.op
    clipped = emit(op.clip(x, -LIMIT, LIMIT))
    square = emit(op.multiply(clipped, clipped))
    value: relax.Expr = _number(COEFFICIENTS[0])
    for i, coefficient in enumerate(COEFFICIENTS[1:]):
        value = emit(op.multiply(square, value) if i == 0 else op.multiply(value, square))
        value = emit(op.add(value, _number(coefficient)))
    share = emit(op.add(emit(op.multiply(value, clipped)), _number(0.5)))
    return op.multiply(x, share)


def choices(
    site: FFN | Attention, target: Target, config: ApproximateConfig | None = None
) -> tuple[list[dict[str, int]], list[Refusal]]:
    """The one setting ``{}`` where a replacement is offered for a site, and what is refused."""
    config = config or ApproximateConfig()
    if not isinstance(site, FFN):
        if not config.softmax:
            return [], [Refusal(site.name, NAME, "replacing the exponentials is switched off")]
        if not site.plain:
            return [], [Refusal(site.name, NAME, "it is causal, or not float32")]
        return [{}], []
    if site.activation not in config.operators:
        return [], [Refusal(site.name, NAME, f"{site.activation} is cheap, or has no replacement")]
    return [{}], []


def _number(value: float) -> relax.Expr:
    return relax.const(value, "float32")
