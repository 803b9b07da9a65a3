"""Multiply-adds of convolutions and linear layers, as a function of the widths of channel groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from passes.channels.graph import Site
from passes.channels.groups import ChannelGroup
from passes.channels.rules import channel_graph
from passes.model import Model

Widths = Mapping[ChannelGroup, int]
"""Units left of groups; those that are not named keep all."""


def macs(model: Model) -> int:
    """Multiply-adds of all convolutions and linear layers of a canonical model."""
    return Work(model, ()).total({})


class Work:
    """The multiply-adds of a model once its groups have other widths.

    A layer costs rows * taps * outputs * inputs, and the last two fall with the units of the groups
    that own them.

    Args:
        model: a canonical model.
        groups: all groups of the model whose widths may change.
    """

    def __init__(self, model: Model, groups: Sequence[ChannelGroup]) -> None:
        sites = list(channel_graph(model).sites.values())
        shapes = [model.weights[s.weight].shape for s in sites]
        self._at = {group: i for i, group in enumerate(groups)}
        self._lead = np.array([s.rows * s.taps for s in sites], dtype=np.int64)
        self._sides = [np.array([s[axis] for s in shapes], dtype=np.int64) for axis in (0, 1)]
        self._owned = [_owned(sites, groups, axis) for axis in (0, 1)]

    def total(self, widths: Widths) -> int:
        """Multiply-adds with these widths."""
        gone = np.zeros(len(self._at), dtype=np.int64)
        for group, width in widths.items():
            gone[self._at[group]] = group.size - width
        rows, columns = (
            side - owned @ gone for side, owned in zip(self._sides, self._owned, strict=True)
        )
        return int((self._lead * rows * columns).sum())


def _owned(sites: Sequence[Site], groups: Sequence[ChannelGroup], axis: int) -> NDArray[np.int64]:
    """Positions [sites, groups] along an axis of each weight that one unit of each group owns."""
    owned = np.zeros((len(sites), len(groups)), dtype=np.int64)
    for j, group in enumerate(groups):
        per_unit = {s.weight: s.positions.shape[1] for s in group.slices if s.axis == axis}
        owned[:, j] = [per_unit.get(site.weight, 0) for site in sites]
    return owned
