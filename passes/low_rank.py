"""A linear layer as two thin ones: ``y = second (first x) + b``, both of the canonical form.

No kernel of its own: the rows between the two layers stay in cache, and so does the loss of writing
them there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax

from passes.errors import PassError
from passes.model import Model
from passes.report import Change, Refusal, Report
from passes.rewrite import Rewriting, Weights, require_own_weights, rewrite

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.low_rank import Factors
    from targets.target import Target

NAME = "low_rank"

FIRST, SECOND = ".first", ".second"
"""Suffixes of the weights [r, K] and [N, r] that take the place of one [N, K]."""


@dataclass(frozen=True)
class LowRankConfig:
    """What is offered.

    Attributes:
        shares: multiply-adds (and weights) left, as shares of the dense layer's; the rank that has
            them is rounded to full packed blocks of the target.
        most: a rank with a larger share than this is refused: two kernels cost more than one.
    """

    shares: tuple[float, ...] = (0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
    most: float = 0.85


def factorize_linear(
    model: Model, linear: Linear, factors: Factors, weights: Weights | None = None
) -> tuple[Model, Report]:
    """``factorize_linears`` of one layer."""
    return factorize_linears(model, [(linear, factors)], weights)


def factorize_linears(
    model: Model, layers: Sequence[tuple[Linear, Factors]], weights: Weights | None = None
) -> tuple[Model, Report]:
    """Put ``matmul(matmul(x, permute_dims(W.first)), permute_dims(W.second))`` in place of W's product.

    Exact relative to the dense graph in which W is the product of its factors. What is added to the
    product (bias, residual) stays where it is.

    Args:
        model: a canonical model.
        layers: sites, each with factors of its weight.
        weights: other weights to use instead of the model's, such as corrected biases.

    Raises:
        PassError: factors of another shape, a weight that other parts of the graph read too.
    """
    for linear, factors in layers:
        _check(model, linear, factors)
    model = model.with_weights(weights or {})
    found = {linear.weight: factors for linear, factors in layers}
    parts = {n + FIRST: f.first for n, f in found.items()}
    parts |= {n + SECOND: f.second for n, f in found.items()}
    todo = set(found)

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        name = graph.linear_weight(value)
        if name not in found:
            return None
        todo.discard(name)
        rows = graph.emit(linear_on(graph, graph.new(value.args[0]), name + FIRST), "low_rank")
        return linear_on(graph, rows, name + SECOND)

    written = rewrite(model, {**model.weights, **parts}, edit, name=NAME)
    if todo:
        raise PassError(
            "a linear layer is not in the graph in its canonical form",
            got=", ".join(sorted(todo)),
            allowed="matmul(x, permute_dims(weight))",
            next="normalize the model first",
        )
    changes = (Change(site.name, NAME, f"rank {factors.rank}") for site, factors in layers)
    return written, Report(NAME, tuple(changes))


def linear_on(graph: Rewriting, x: relax.Expr, weight: str) -> relax.Expr:
    """``matmul(x, permute_dims(weight))``, the canonical product of a linear layer."""
    turned = graph.emit(relax.op.permute_dims(graph.weight(weight), [1, 0]))
    return relax.op.matmul(x, turned)


def choices(
    site: Linear, target: Target, config: LowRankConfig | None = None
) -> tuple[list[dict[str, int]], list[Refusal]]:
    """Settings ``{"rank": r}`` offered for a site, largest first, and what is refused."""
    config = config or LowRankConfig()
    n, k, block = site.out_features, site.in_features, target.block
    offers: list[dict[str, int]] = []
    refusals: list[Refusal] = []
    for share in sorted(config.shares, reverse=True):
        offered = max(1, round(share * n * k / (n + k) / block)) * block
        reason = refused(site, offered, config)
        if reason is not None:
            refusals.append(Refusal(site.name, f"{NAME} {share:g}", reason))
        elif {"rank": offered} not in offers:
            offers.append({"rank": offered})
    return offers, refusals


def refused(site: Linear, offered: int, config: LowRankConfig) -> str | None:
    """Why a rank is not offered for a layer; None if it is."""
    n, k = site.out_features, site.in_features
    left = offered * (n + k) / (n * k)
    if offered >= min(n, k):
        return f"rank {offered} is full: the layer has {min(n, k)}"
    if left > config.most:
        return (
            f"rank {offered} leaves {left:.0%} of the products in two kernels "
            f"(at most {config.most:.0%})"
        )
    return None


def _check(model: Model, linear: Linear, factors: Factors) -> None:
    names = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    require_own_weights(model, linear.name, names)
    n, k = model.weights[linear.weight].shape
    got = (factors.second.shape, factors.first.shape)
    if got != ((n, factors.rank), (factors.rank, k)):
        raise PassError(
            f"the factors do not fit {linear.name}",
            got=f"{got[0]} x {got[1]}",
            allowed=f"({n}, r) x (r, {k})",
            next="solve it on the model as it is after the passes before",
        )
    dtypes = {p.dtype for p in factors}
    if dtypes != {np.dtype(np.float32)}:
        raise PassError(
            f"the factors of {linear.name} have another type",
            got=", ".join(sorted(map(str, dtypes))),
            allowed="float32",
        )
