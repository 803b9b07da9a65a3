"""A convolution as three: 1x1 to fewer channels, the old window on them, 1x1 to all outputs.

The two 1x1 convolutions are linear layers of the canonical form, so that whatever serves those (int8,
sparsity, another low rank) serves them too. A window that reaches into padding reads zeros behind the
first layer as before it, for that layer has no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax

from passes.errors import PassError
from passes.low_rank import FIRST, SECOND, linear_on
from passes.model import Model
from passes.report import Change, Report
from passes.rewrite import Rewriting, Weights, require_own_weights, rewrite

if TYPE_CHECKING:
    from passes.solve.tucker import Tucker2
    from targets.target import Target

NAME = "tucker"

CORE = ".core"
"""Suffix of the weight [r_out, r_in, kh, kw] between ``.first`` and ``.second``."""


@dataclass(frozen=True)
class TuckerConfig:
    """What is offered.

    Attributes:
        shares: channels kept, in and out alike; rounded to full packed blocks of the target.
        most: channels that leave a larger share of the products than this are refused: three
            kernels cost more than one.
    """

    shares: tuple[float, ...] = (0.75, 0.625, 0.5, 0.375, 0.25)
    most: float = 0.85


def factorize_convs(
    model: Model, layers: Sequence[tuple[str, Tucker2]], weights: Weights | None = None
) -> tuple[Model, Report]:
    """Put three convolutions in place of one, ``last(core(first(x)))``.

    Exact relative to the dense graph in which the weight is the product of its factors.

    Args:
        model: a canonical model.
        layers: names of weights [O, C, kh, kw] of convolutions with one group, each with factors.
        weights: other weights to use instead of the model's, such as corrected biases.

    Raises:
        PassError: factors of another shape, a weight that other parts of the graph read too, or that
            no canonical convolution with one group reads.
    """
    for weight, factors in layers:
        require_own_weights(model, weight, [weight])
        _check(model, weight, factors)
    model = model.with_weights(weights or {})
    found = dict(layers)
    parts = {n + FIRST: f.first for n, f in found.items()}
    parts |= {n + CORE: f.core for n, f in found.items()}
    parts |= {n + SECOND: f.last for n, f in found.items()}
    todo = set(found)

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        name = _conv_weight(graph, value)
        if name not in found:
            return None
        todo.discard(name)
        narrow = graph.emit(linear_on(graph, graph.new(value.args[0]), name + FIRST), "channels")
        core = relax.Call(value.op, [narrow, graph.weight(name + CORE)], value.attrs)
        return linear_on(graph, graph.emit(core, "core"), name + SECOND)

    written = rewrite(model, {**model.weights, **parts}, edit, name=NAME)
    if todo:
        raise PassError(
            "a convolution is not in the graph in its canonical form",
            got=", ".join(sorted(todo)),
            allowed="conv2d in NHWC with one group and a weight OIHW of its own",
            next="normalize the model first; convolutions with groups have no Tucker form",
        )
    changes = (
        Change(name, NAME, f"channels {f.core.shape[1]} in, {f.core.shape[0]} out")
        for name, f in layers
    )
    return written, Report(NAME, tuple(changes))


def channel_ranks(
    outputs: int, channels: int, taps: int, target: Target, config: TuckerConfig | None = None
) -> tuple[list[tuple[int, int]], list[str]]:
    """(rank_in, rank_out) offered for a convolution, largest first, and reasons for what is not.

    Args:
        outputs, channels: of the convolution, which has one group.
        taps: kh * kw of its window.
    """
    config = config or TuckerConfig()
    offers: list[tuple[int, int]] = []
    refusals: list[str] = []
    for share in sorted(config.shares, reverse=True):
        pair = (_blocks(share * channels, target), _blocks(share * outputs, target))
        reason = refused(outputs, channels, taps, pair, config)
        if reason is not None:
            refusals.append(f"{share:g} of the channels: {reason}")
        elif pair not in offers:
            offers.append(pair)
    return offers, refusals


def refused(
    outputs: int, channels: int, taps: int, ranks: tuple[int, int], config: TuckerConfig
) -> str | None:
    """Why channels are not offered for a convolution; None if they are.

    Counted for stride 1; a larger stride leaves the first layer a larger share than this.
    """
    rank_in, rank_out = ranks
    if taps == 1:
        return "a 1x1 convolution is a linear layer: low rank serves it"
    if rank_in >= channels or rank_out >= outputs:
        return f"{rank_in} in and {rank_out} out of {channels} and {outputs} leave none out"
    products = rank_in * channels + rank_in * rank_out * taps + rank_out * outputs
    left = products / (outputs * channels * taps)
    if left > config.most:
        return (
            f"{rank_in} in and {rank_out} out leave {left:.0%} of the products in three kernels "
            f"(at most {config.most:.0%})"
        )
    return None


def _blocks(channels: float, target: Target) -> int:
    return max(1, round(channels / target.block)) * target.block


def _conv_weight(graph: Rewriting, value: relax.Expr) -> str | None:
    """The weight of a canonical convolution with one group."""
    conv = graph.call(value, "nn.conv2d")
    if conv is None or not isinstance(conv.args[1], relax.Var) or graph.value(conv.args[1]):
        return None
    attrs = conv.attrs
    layouts = (str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout))
    canonical = layouts == ("NHWC", "OIHW", "NHWC") and int(attrs.groups) == 1
    return conv.args[1].name if canonical else None


def _check(model: Model, weight: str, factors: Tucker2) -> None:
    shape = model.weights[weight].shape
    got = tuple(p.shape for p in factors)
    if len(shape) == 4:
        outputs, channels, *window = shape
        rank_out, rank_in = factors.core.shape[:2]
        allowed = ((rank_in, channels), (rank_out, rank_in, *window), (outputs, rank_out))
        if got == allowed and {p.dtype for p in factors} == {np.dtype(np.float32)}:
            return
    raise PassError(
        f"the factors do not fit {weight}",
        got=", ".join(map(str, got)),
        allowed=f"float32 [r_in, C], [r_out, r_in, kh, kw], [O, r_out] for {list(shape)}",
        next="solve it on the model as it is after the passes before",
    )
