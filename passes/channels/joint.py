"""All consumers of a group as one layer: their errors add up, and so each unit is judged once.

Consumers with weights W_i and damped moments H_i of their inputs lose ``sum_i tr(D_i H_i D_i^T)`` by
changes D_i of their weights. That is the loss of one layer with the W_i as blocks on the diagonal of
its weight and the H_i on that of its moments. Inputs that no unit owns are never removed: they are
minimised over first, which leaves the Schur complement of their block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, cho_factor, cho_solve

from passes.channels.graph import Positions
from passes.channels.groups import ChannelGroup
from passes.errors import PassError
from passes.model import Model
from passes.solve.gram import Array, Gram, damped, squared_error, target_weight
from passes.solve.site import Affine


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


@dataclass(frozen=True)
class Joint:
    """All consumers as one layer.

    Attributes:
        consumers: the layers.
        weight: [sum of O, units * features], unit by unit; errors are relative to each output.
        moments: [units * features, units * features], positive definite.
        features: of a unit, in all consumers together.
    """

    consumers: tuple[Consumer, ...]
    weight: NDArray[np.float64]
    moments: NDArray[np.float64]
    features: int


def joint_problem(model: Model, group: ChannelGroup, grams: Mapping[str, Gram]) -> Joint:
    """Set up the problem of which units of a group to remove.

    Raises:
        PassError: a group without consumers, or a consumer without a fitting Gram matrix.
    """
    consumers = tuple(_consumers(model, group, grams))
    parts = [_on_units(c) for c in consumers]
    sizes = [c.owned.shape[1] for c in consumers]
    starts = np.cumsum([0, *(c.owned.size for c in consumers)])
    order = np.concatenate(
        [
            start + np.arange(group.size * size).reshape(group.size, size)
            for start, size in zip(starts, sizes, strict=False)
        ],
        axis=1,
    ).reshape(-1)
    weight = block_diag(*(w for w, _ in parts))[:, order]
    moments = block_diag(*(h for _, h in parts))[np.ix_(order, order)]
    return Joint(consumers, weight, moments, sum(sizes))


def _consumers(model: Model, group: ChannelGroup, grams: Mapping[str, Gram]) -> list[Consumer]:
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
        bias = None if site.bias is None else model.weights[site.bias].astype(np.float32)
        judged = gram if bias is None else gram.centred()  # a bias takes up any constant
        found[site.weight] = Consumer(
            site.weight,
            site.bias,
            Affine(weight, bias),
            gram,
            target_weight(weight, judged),
            damped(judged.xx),
            features_of(part.positions, site.taps),
        )
    if not found:
        raise PassError(f"{group.name} has no consumer that could lose anything")
    return list(found.values())


def features_of(positions: Positions, taps: int) -> Positions:
    """The inputs [units, n * taps] that channels [units, n] are to a layer with a kernel of ``taps``."""
    features = positions[:, :, None] * taps + np.arange(taps)
    return features.reshape(len(positions), -1)


def _on_units(consumer: Consumer) -> tuple[Array, Array]:
    """Weight and moments over the inputs that units own, unit by unit, in relative errors."""
    own = consumer.owned.reshape(-1)
    fixed = np.setdiff1d(np.arange(len(consumer.moments)), own)
    moments = consumer.moments[np.ix_(own, own)]
    if len(fixed):
        across = consumer.moments[np.ix_(fixed, own)]
        factor = cho_factor(consumer.moments[np.ix_(fixed, fixed)], lower=True)
        moments = moments - across.T @ cho_solve(factor, across)
    energy = float(squared_error(consumer.target, consumer.moments).sum())
    return consumer.target[:, own], moments / max(energy, np.finfo(np.float64).tiny)
