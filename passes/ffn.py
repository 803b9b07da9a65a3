"""Structured pruning of FFNs: fewer neurons between the two linear layers, which stay dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from passes.errors import PassError
from passes.model import Model
from passes.report import Change, Refusal, Report
from passes.rewrite import Weights, require_own_weights, rewrite

if TYPE_CHECKING:
    from passes.sites import FFN
    from passes.solve.site import SolvedFFN
    from targets.target import Target

NAME = "prune_ffn"


@dataclass(frozen=True)
class FFNConfig:
    """What is offered.

    Attributes:
        shares: shares of the neurons kept; widths are rounded to full packed blocks of the target.
        min_blocks: blocks of neurons that are always left.
    """

    shares: tuple[float, ...] = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
    min_blocks: int = 1


def prune_ffn(
    model: Model, ffn: FFN, keep: Sequence[int] | NDArray[np.intp], weights: Weights | None = None
) -> tuple[Model, Report]:
    """Keep only some neurons of an FFN.

    Exact relative to the dense graph in which the columns of the second layer that belong to
    removed neurons are zero. ``keep`` may be in any order, which reorders the neurons at no cost
    (all of them, to bring outputs that read the same inputs into one block).

    Args:
        model: a canonical model.
        ffn: the site.
        keep: distinct numbers of the neurons to keep.
        weights: effective dense weights to use instead of the model's (see ``solved_weights``).

    Raises:
        PassError: no, repeated or unknown neurons; a weight that other parts of the graph read too.
    """
    names = [n for n in (ffn.up.weight, ffn.up.bias, ffn.down.weight) if n is not None]
    require_own_weights(model, ffn.name, names)
    model = model.with_weights(weights or {})
    width = model.weights[ffn.up.weight].shape[0]
    index = kept_numbers(keep, width, ffn.name, "neurons")
    changed = dict(model.weights)
    for name in names:
        columns = name == ffn.down.weight
        changed[name] = np.ascontiguousarray(model.weights[name].take(index, axis=int(columns)))
    detail = f"{len(index)} of {width} neurons"
    pruned = rewrite(model, changed, name=NAME)
    return pruned, Report(NAME, (Change(ffn.name, NAME, detail),))


def solved_weights(ffn: FFN, solved: SolvedFFN) -> dict[str, NDArray[np.floating]]:
    """The effective dense weights of a solved FFN by name, as ``prune_ffn`` takes them."""
    parts = {
        ffn.up.weight: solved.up.weight,
        ffn.up.bias: solved.up.bias,
        ffn.down.weight: solved.down.weight,
        ffn.down.bias: solved.down.bias,
    }
    return {n: a.astype(np.float32) for n, a in parts.items() if n is not None and a is not None}


def kept_numbers(
    keep: Sequence[int] | NDArray[np.intp], total: int, site: str, what: str
) -> NDArray[np.intp]:
    """``keep`` as an array; raises PassError unless it is distinct numbers below ``total``."""
    index = np.asarray(keep, dtype=np.intp)
    fits = index.ndim == 1 and 0 < len(index) == len(np.unique(index))
    if not fits or index.min() < 0 or index.max() >= total:
        raise PassError(
            f"cannot keep these {what} of {site}",
            got=np.array2string(index, threshold=8),
            allowed=f"at least 1, distinct, from 0 to {total - 1}",
        )
    return index


def choices(
    site: FFN, target: Target, config: FFNConfig | None = None
) -> tuple[list[dict[str, int]], list[Refusal]]:
    """Settings ``{"width": neurons}`` offered for a site, widest first, and what is refused."""
    config = config or FFNConfig()
    block, full = target.block, site.up.out_features
    offers: list[dict[str, int]] = []
    refusals: list[Refusal] = []
    for share in sorted(config.shares, reverse=True):
        width = max(config.min_blocks, round(share * full / block)) * block
        if width >= full:
            refusals.append(_too_narrow(site, share, block))
        elif {"width": width} not in offers:
            offers.append({"width": width})
    return offers, refusals


def _too_narrow(site: FFN, share: float, block: int) -> Refusal:
    reason = (
        f"{share:g} of {site.up.out_features} neurons, rounded to blocks of {block}, removes none"
    )
    return Refusal(site.name, f"{NAME} {share:g}", reason)
