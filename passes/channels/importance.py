"""How much each unit of a group matters: by the size of its weights, or by what its consumers lose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from passes.channels.consumers import consumers_of
from passes.channels.groups import ChannelGroup
from passes.channels.removal import unit_costs
from passes.model import Model
from passes.solve.blas import one_thread
from passes.solve.gram import Gram

Importance = NDArray[np.float64]
"""One number [units] for each unit of a group; the smallest go first."""


def magnitude(model: Model, group: ChannelGroup) -> Importance:
    """L2 norm of all weights that each unit owns, relative to the mean of the group.

    The group norm of DepGraph (Fang et al. 2023): what is removed together is judged together.
    """
    energy = np.zeros(group.size)
    for part in group.slices:
        weight = model.weights[part.weight].astype(np.float64)
        others = tuple(axis for axis in range(weight.ndim) if axis != part.axis)
        energy += np.square(weight).sum(axis=others)[part.positions].sum(axis=1)
    norm: Importance = np.sqrt(energy)
    return norm / max(norm.mean(), np.finfo(np.float64).tiny)


@one_thread
def obs_cost(model: Model, group: ChannelGroup, grams: Mapping[str, Gram]) -> Importance:
    """Relative output error of all consumers together if one unit goes and what is left makes up for it.

    ``tr(W_G inv(P_GG) W_G^T)`` with P the inverse of the consumers' moments (Optimal Brain Surgeon,
    Hassibi and Stork 1993).

    Args:
        model: the model with the dense weights.
        group: of the model.
        grams: by weight of each consumer, of its inputs [..., C * taps].

    Raises:
        PassError: as ``consumers_of``.
    """
    return unit_costs(consumers_of(model, group, grams))
