"""Structured pruning of attention: fewer heads, with narrower projections before and after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from passes.errors import PassError
from passes.ffn import kept_numbers
from passes.model import Model
from passes.report import Change, Refusal, Report
from passes.rewrite import Rewriting, Weights, require_own_weights, rewrite

if TYPE_CHECKING:
    from passes.sites import Attention
    from passes.solve.site import SolvedHeads
    from targets.target import Target

NAME = "prune_heads"

ATTENTION = ("nn.attention", "nn.attention_bias")
"""Relax's operators on (batch, sequence, heads, features), without and with an additive bias."""

QKV = 3
"""Parts of the combined projection: queries, keys, values."""


@dataclass(frozen=True)
class HeadsConfig:
    """What is offered.

    Attributes:
        min_heads: heads that are always left.
    """

    min_heads: int = 1


def prune_heads(
    model: Model,
    attention: Attention,
    keep: Sequence[int] | NDArray[np.intp],
    weights: Weights | None = None,
) -> tuple[Model, Report]:
    """Keep only some heads of an attention site.

    Exact relative to the dense graph in which the columns of the output projection that belong to
    removed heads are zero.

    Args:
        model: a canonical model.
        attention: the site, with a combined QKV projection.
        keep: distinct numbers of the heads to keep, in any order.
        weights: effective dense weights to use instead of the model's (see ``solved_weights``).

    Raises:
        PassError: no, repeated or unknown heads; a weight that other parts of the graph read too;
            an attention graph that is not in the canonical form.
    """
    qkv, out = attention.qkv, attention.out
    names = [n for n in (qkv.weight, qkv.bias, out.weight) if n is not None]
    require_own_weights(model, attention.name, names)
    model = model.with_weights(weights or {})
    dim = attention.head_dim
    heads = model.weights[out.weight].shape[1] // dim
    index = kept_numbers(keep, heads, attention.name, "heads")
    changed = dict(model.weights)
    for name in names:
        part = (QKV, heads, dim, -1) if name != out.weight else (-1, heads, dim)
        changed[name] = _take(model.weights[name], part, index)
    edit = _HeadsEdit(attention, index, heads)
    pruned = rewrite(model, changed, edit, name=NAME)
    edit.require_done()
    return pruned, Report(NAME, (Change(attention.name, NAME, f"{len(index)} of {heads} heads"),))


def solved_weights(attention: Attention, solved: SolvedHeads) -> dict[str, NDArray[np.floating]]:
    """The effective dense weights of solved attention by name, as ``prune_heads`` takes them."""
    parts = {
        attention.qkv.weight: solved.qkv.weight,
        attention.qkv.bias: solved.qkv.bias,
        attention.out.weight: solved.out.weight,
        attention.out.bias: solved.out.bias,
    }
    return {n: a.astype(np.float32) for n, a in parts.items() if n is not None and a is not None}


def choices(
    site: Attention, target: Target, config: HeadsConfig | None = None
) -> tuple[list[dict[str, int]], list[Refusal]]:
    """Settings ``{"heads": number}`` offered for a site, most first, and what is refused."""
    config = config or HeadsConfig()
    offers: list[dict[str, int]] = []
    refusals: list[Refusal] = []
    for heads in range(site.heads - 1, config.min_heads - 1, -1):
        width = heads * site.head_dim
        if width % target.block:
            reason = (
                f"{heads} heads of {site.head_dim} are {width} features, no multiple of the block "
                f"of {target.block} outputs: part of a tile would be idle"
            )
            refusals.append(Refusal(site.name, f"{NAME} {heads}", reason))
        else:
            offers.append({"heads": heads})
    return offers, refusals


def _take(
    weight: NDArray[np.generic], part: tuple[int, ...], index: NDArray[np.intp]
) -> NDArray[np.generic]:
    """Heads ``index`` of a weight that has its heads on axis 1 when reshaped to ``part``."""
    taken = weight.reshape(part).take(index, axis=1)
    if part[0] == QKV:
        return np.ascontiguousarray(taken.reshape(-1, *weight.shape[1:]))
    return np.ascontiguousarray(taken.reshape(weight.shape[0], -1))


class _HeadsEdit:
    """Follows the combined projection to the merged heads, and narrows the shapes on the way."""

    def __init__(self, attention: Attention, index: NDArray[np.intp], heads: int) -> None:
        self._attention = attention
        self._index = index
        self._heads = heads
        self._own: set[relax.Var] = set()
        self._done = False

    def __call__(self, graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if graph.linear_weight(value) == self._attention.qkv.weight:
            self._own.add(var)
            return None
        if not any(v in self._own for v in relax.analysis.free_vars(value)):
            return None
        if graph.call(value, "reshape") is not None:
            return self._reshape(graph, var, value)
        self._own.add(var)
        if any(graph.call(value, op) is not None for op in ATTENTION):
            return self._attend(graph, value)
        plain = isinstance(value, relax.TupleGetItem)
        if not plain and all(graph.call(value, op) is None for op in ("add", "split")):
            raise self._unknown(value)
        return None

    def _reshape(self, graph: Rewriting, var: relax.Var, value: relax.Call) -> relax.Expr:
        """(B, S, H*D) to (B, S, H, D), or back: then the heads are merged and all is done."""
        *lead, last = (int(d) for d in value.ty.shape.values)
        dim, kept = self._attention.head_dim, len(self._index)
        if (lead[-1], last) == (self._heads, dim):
            self._own.add(var)
            shape = [*lead[:-1], kept, dim]
        elif last == self._heads * dim and len(lead) == 2:
            self._done = True
            shape = [*lead, kept * dim]
        else:
            raise self._unknown(value)
        return relax.op.reshape(graph.new(value.args[0]), shape)

    def _attend(self, graph: Rewriting, value: relax.Call) -> relax.Expr | None:
        if len(value.args) < 4 or int(value.args[3].ty.shape.values[1]) == 1:
            return None
        kept = relax.const(self._index.astype(np.int64), "int64")
        bias = graph.emit(relax.op.take(graph.new(value.args[3]), kept, axis=1), "bias_of_heads")
        args = [*(graph.new(a) for a in value.args[:3]), bias]
        return relax.Call(value.op, args, value.attrs, value.ty_args)

    def require_done(self) -> None:
        """Raise PassError unless the merged heads were reached."""
        if not self._done:
            raise PassError(
                f"{self._attention.name} is not in the canonical form",
                got="no reshape of attention's output was found behind its QKV projection",
                next="normalize the model first",
            )

    def _unknown(self, value: relax.Expr) -> PassError:
        return PassError(
            f"{self._attention.name} is not in the canonical form",
            got=str(value)[:200],
            allowed="linear, split, reshape, attention, reshape",
            next="normalize the model first",
        )
