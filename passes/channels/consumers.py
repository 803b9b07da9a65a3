"""The layers that sum over the channels of a group: what each of them loses when channels go.

A consumer with weight W and damped moments H of its inputs loses ``tr(D H D^T)`` by a change D of its
weight. Each is judged by itself and their relative errors are added up, so that a group with many
consumers needs no matrix of all their inputs together. Inputs that no unit owns are never removed:
they are minimised over first, which leaves the Schur complement of their block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from passes.channels.graph import Positions
from passes.channels.groups import ChannelGroup
from passes.errors import PassError
from passes.model import Model
from passes.solve.gram import Array, Gram, damped, squared_error, target_weight
from passes.solve.site import Affine

MOST_INPUTS = 8192
"""Inputs of a consumer that its group owns, at most: their moments take 0.5 GiB then."""


@dataclass(frozen=True)
class Consumer:
    """One layer that sums over the channels of a group.

    Attributes:
        name, bias_name: of its weight and its bias.
        layer: dense weight [O, C * taps], the features of a channel adjacent, and bias.
        gram: of its inputs.
        target: float64 [O, C * taps], the weight to approach.
        moments: float64 [C * taps, C * taps], by which a change of it is judged, damped.
        owned: int [units, n], the features of each unit.
    """

    name: str
    bias_name: str | None
    layer: Affine
    gram: Gram
    target: NDArray[np.float64]
    moments: NDArray[np.float64]
    owned: Positions

    def on_units(self) -> tuple[Array, Array]:
        """Weight [O, units * n] and moments over the inputs that units own, unit by unit.

        The moments are divided by the energy of the output: errors are relative to it.
        """
        own = self.owned.reshape(-1)
        fixed = np.setdiff1d(np.arange(len(self.moments)), own)
        moments = self.moments[np.ix_(own, own)]
        if len(fixed):
            across = self.moments[np.ix_(fixed, own)]
            factor = cho_factor(self.moments[np.ix_(fixed, fixed)], lower=True)
            moments = moments - across.T @ cho_solve(factor, across)
        energy = float(squared_error(self.target, self.moments).sum())
        return self.target[:, own], moments / max(energy, np.finfo(np.float64).tiny)


def consumers_of(
    model: Model, group: ChannelGroup, grams: Mapping[str, Gram]
) -> tuple[Consumer, ...]:
    """The consumers of a group with their moments.

    Args:
        model: the model with the dense weights.
        group: of the model.
        grams: by weight of each consumer, of its inputs [..., C * taps].

    Raises:
        PassError: a group without consumers, a consumer without a fitting Gram matrix, or one of which
            the group owns more than ``MOST_INPUTS`` inputs.
    """
    found: dict[str, Consumer] = {}
    for site in group.consumers:
        part = group.of(site.weight, 1)
        if part is None or site.weight in found:
            continue
        if site.weight not in grams:
            raise PassError(
                f"{group.name} has a consumer without calibration data",
                got=site.weight,
                allowed=f"a Gram matrix for each of {', '.join(s.weight for s in group.consumers)}",
            )
        dense, gram = model.weights[site.weight], grams[site.weight]
        weight = dense.reshape(len(dense), -1).astype(np.float32)
        if gram.features != weight.shape[1] or gram.count == 0:
            raise PassError(
                f"the Gram matrix does not fit {site.weight}",
                got=f"{gram.features} features, {gram.count} rows",
                allowed=f"{weight.shape[1]} features, at least 1 row",
            )
        owned = features_of(part.positions, site.taps)
        if owned.size > MOST_INPUTS:
            raise PassError(
                f"{group.name} is read by a layer with too many inputs to solve",
                got=f"{owned.size} inputs of {site.weight}",
                allowed=f"at most {MOST_INPUTS}",
            )
        bias = None if site.bias is None else model.weights[site.bias].astype(np.float32)
        judged = gram if bias is None else gram.centred()  # a bias takes up any constant
        found[site.weight] = Consumer(
            site.weight,
            site.bias,
            Affine(weight, bias),
            gram,
            target_weight(weight, judged),
            damped(judged.xx),
            owned,
        )
    if not found:
        raise PassError(f"{group.name} has no consumer that could lose anything")
    return tuple(found.values())


def features_of(positions: Positions, taps: int) -> Positions:
    """The inputs [units, n * taps] that channels [units, n] are to a layer with a kernel of ``taps``."""
    features = positions[:, :, None] * taps + np.arange(taps)
    return features.reshape(len(positions), -1)
