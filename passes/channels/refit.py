"""Which units of a group to keep, and their consumers refitted to what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.channels.consumers import Consumer, consumers_of
from passes.channels.graph import Positions
from passes.channels.groups import ChannelGroup
from passes.channels.removal import kept_units
from passes.errors import PassError
from passes.model import Model
from passes.solve.blas import one_thread
from passes.solve.gram import Gram, corrected_bias, relative_error
from passes.solve.obs import refit


@dataclass(frozen=True)
class SolvedChannels:
    """A group solved for a number of units.

    Attributes:
        keep: ascending numbers of the units kept.
        weights: of the consumers and their biases, as ``prune_channels`` takes them: refitted, the
            columns of removed units zero.
        errors: by consumer, energy of the output error over that of the output.
    """

    keep: Positions
    weights: dict[str, NDArray[np.float32]]
    errors: dict[str, float]


@one_thread
def solve_channels(
    model: Model, group: ChannelGroup, grams: Mapping[str, Gram], keeps: Sequence[int]
) -> list[SolvedChannels]:
    """Remove units greedily by Optimal Brain Surgeon costs, down to each count of ``keeps``.

    The cost of a unit is the sum of the relative output errors of all consumers of the group. Then
    each consumer is refitted by least squares on the inputs that it keeps, its bias takes up what is
    left of the mean error.

    Args:
        model: the model with the dense weights.
        group: of the model.
        grams: by weight of each consumer, of its inputs [..., C * taps], as it gets them once what
            is before it is compressed.
        keeps: numbers of units to keep.

    Raises:
        PassError: counts out of range, no consumer, a consumer without a fitting Gram matrix.
    """
    consumers = consumers_of(model, group, grams)
    kept = _kept(group, consumers, keeps)
    return [_solved(model, consumers, units) for units in kept]


@one_thread
def choose_channels(
    model: Model, group: ChannelGroup, grams: Mapping[str, Gram], keeps: Sequence[int]
) -> list[Positions]:
    """Only the units that ``solve_channels`` keeps, for whoever refits the consumers later.

    Raises:
        PassError: as ``solve_channels``.
    """
    return _kept(group, consumers_of(model, group, grams), keeps)


def _kept(
    group: ChannelGroup, consumers: Sequence[Consumer], keeps: Sequence[int]
) -> list[Positions]:
    wrong = [keep for keep in keeps if not 1 <= keep <= group.size]
    if wrong:
        raise PassError(
            f"{group.name} cannot keep that many channels",
            got=str(wrong[0]),
            allowed=f"1 to {group.size}",
        )
    return kept_units(consumers, keeps)


def _solved(model: Model, consumers: Sequence[Consumer], keep: Positions) -> SolvedChannels:
    weights: dict[str, NDArray[np.float32]] = {}
    errors: dict[str, float] = {}
    for c in consumers:
        mask = np.ones((1, c.target.shape[1]), dtype=bool)
        mask[0, np.delete(c.owned, keep, axis=0)] = False
        fitted = refit(c.target, c.moments, mask, 1, len(c.target))
        weights[c.name] = fitted.reshape(model.weights[c.name].shape)
        errors[c.name] = relative_error(fitted, c.target, c.moments)
        if c.layer.bias is not None and c.bias_name is not None:
            weights[c.bias_name] = corrected_bias(c.layer.bias, c.layer.weight, fitted, c.gram)
    return SolvedChannels(keep, weights, errors)
