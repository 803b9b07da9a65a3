"""Coupled groups: which channels of which weights can only be removed together, and which never."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd, lcm
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from passes.channels.graph import Axis, ChannelGraph, Positions, Site
from passes.channels.rules import channel_graph
from passes.model import Model
from passes.report import Refusal

if TYPE_CHECKING:
    from targets.target import Target

NAME = "prune_channels"


@dataclass(frozen=True)
class Slice:
    """What a group owns of one axis of one weight.

    Attributes:
        axis: of the weight.
        positions: int [units, n]: the n positions along the axis that each unit owns, ascending.
    """

    weight: str
    axis: int
    positions: Positions


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of one or several layers that are removed together, unit by unit.

    A unit is a set of channels that stand or fall together: one channel of every layer that a
    residual sum joins, all channels of a group of a grouped convolution, a channel and the features
    that it becomes when an image is flattened. All units of a group own equally many positions of
    the same weights.

    Attributes:
        name: after the first weight whose rows it owns; the same in every model of the same weights.
        size: number of units.
        slices: what it owns of weights.
        producers: layers whose outputs its channels are.
        consumers: layers that sum over its channels; their columns for a removed unit go.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    producers: tuple[Site, ...]
    consumers: tuple[Site, ...]

    def of(self, weight: str, axis: int) -> Slice | None:
        """What the group owns of an axis of a weight."""
        found = (s for s in self.slices if (s.weight, s.axis) == (weight, axis))
        return next(found, None)

    def step(self, target: Target) -> int:
        """Units by which the outputs of every producer change by full packed blocks of the target."""
        owned = [self.of(site.weight, 0) for site in self.producers]
        per_unit = [s.positions.shape[1] for s in owned if s is not None]
        return lcm(*(target.block // gcd(target.block, n) for n in per_unit))


@dataclass(frozen=True)
class Coupling:
    """A channel graph taken apart.

    Attributes:
        graph: as ``channel_graph`` made it.
        units: for every position of the model the number of its unit.
        groups: in order of their first weights.
        members: name of a group -> numbers of its units, in order of the group.
        refusals: weights with outputs that can never be removed.
    """

    graph: ChannelGraph
    units: NDArray[np.intp]
    groups: tuple[ChannelGroup, ...]
    members: Mapping[str, NDArray[np.intp]]
    refusals: tuple[Refusal, ...]


def find_groups(model: Model) -> tuple[tuple[ChannelGroup, ...], tuple[Refusal, ...]]:
    """The groups of a canonical model, and the weights whose channels can never be removed."""
    coupling = couple(model)
    return coupling.groups, coupling.refusals


def couple(model: Model) -> Coupling:
    """``find_groups`` with the graph that the groups come from."""
    graph = channel_graph(model)
    finder = _Finder(graph, graph.units())
    for component in graph.components():
        if any(axis in graph.produced for axis in component):
            finder.search(component)
    return finder.result()


class _Finder:
    def __init__(self, graph: ChannelGraph, units: NDArray[np.intp]) -> None:
        self._graph = graph
        self._units = units
        self._found: list[tuple[int, ChannelGroup, NDArray[np.intp]]] = []
        self._refused: list[tuple[int, Refusal]] = []

    def result(self) -> Coupling:
        """Everything in order of the first channel that it owns; a second group of a weight is ".2"."""
        groups: list[ChannelGroup] = []
        members: dict[str, NDArray[np.intp]] = {}
        for _, group, numbers in sorted(self._found, key=lambda f: f[0]):
            name, count = group.name, 1
            while name in members:
                count += 1
                name = f"{group.name}.{count}"
            members[name] = numbers
            groups.append(replace(group, name=name))
        refusals = dict.fromkeys(r for _, r in sorted(self._refused, key=lambda r: r[0]))
        return Coupling(self._graph, self._units, tuple(groups), members, tuple(refusals))

    def search(self, component: list[Axis]) -> None:
        """Units that touch the same axes equally often are a group."""
        labels = [self._units[self._graph.positions(axis)] for axis in component]
        numbers, inverse = np.unique(np.concatenate(labels), return_inverse=True)
        column = np.repeat(np.arange(len(component)), [len(part) for part in labels])
        counts = np.zeros((len(numbers), len(component)), dtype=np.intp)
        np.add.at(counts, (inverse, column), 1)
        signatures, kind = np.unique(counts, axis=0, return_inverse=True)
        for at, signature in enumerate(signatures):
            axes = [component[i] for i in np.flatnonzero(signature)]
            self._group(axes, numbers[kind.reshape(-1) == at])

    def _group(self, axes: list[Axis], numbers: NDArray[np.intp]) -> None:
        """Make units that lie on these axes a group, or say why they are none."""
        produced = [axis for axis in axes if axis in self._graph.produced]
        if not produced:
            return
        along = self._units[self._graph.positions(produced[0])]
        own, first = np.unique(along, return_index=True)
        mine = np.isin(own, numbers)
        numbers = own[mine][np.argsort(first[mine])]
        order = int(self._graph.axes.nodes[produced[0]]["first"] + first[mine].min())
        pins = [reason for axis in axes if (reason := self._graph.pins.get(axis)) is not None]
        if not pins and len(numbers) == 1:
            pins = ["all of them stand or fall together"]
        weights = [str(self._graph.weight(tensor)) for tensor, _ in produced]
        if pins:
            refusals = (Refusal(f"{weight}.channels", NAME, pins[0]) for weight in weights)
            self._refused += [(order, refusal) for refusal in refusals]
            return
        slices = self._slices(axes, numbers)
        touched = {(s.weight, s.axis) for s in slices}
        sites = self._graph.sites.values()
        group = ChannelGroup(
            f"{weights[0]}.channels",
            len(numbers),
            slices,
            producers=tuple(s for s in sites if (s.weight, 0) in touched),
            consumers=tuple(s for s in sites if s.groups == 1 and (s.weight, 1) in touched),
        )
        self._found.append((order, group, numbers))

    def _slices(self, axes: list[Axis], numbers: NDArray[np.intp]) -> tuple[Slice, ...]:
        place = np.full(len(self._units), -1, dtype=np.intp)  # of each unit in the group
        place[numbers] = np.arange(len(numbers))
        slices = []
        for tensor, axis in axes:
            name = self._graph.weight(tensor)
            if name is not None:
                unit = place[self._units[self._graph.positions((tensor, axis))]]
                mine = np.flatnonzero(unit >= 0)
                mine = mine[np.argsort(unit[mine], kind="stable")]
                slices.append(Slice(name, axis, mine.reshape(len(numbers), -1)))
        return tuple(slices)
