"""Which channels of a model are the same channel: a graph of axes, tied position by position.

Every axis of every tensor is a node, every operator ties positions of its operands' axes to
positions of its result's (`rules.py`), and what is tied can only be removed together. That is the
dependency graph of DepGraph (Fang et al. 2023) at the grain of single channels, so that
concatenation, splitting, flattening and grouped convolutions need no cases of their own later: they
are other lists of positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tvm import relax

from passes.model import Model
from passes.patterns import shape_of
from passes.rewrite import bindings_of

Axis = tuple[relax.Expr, int]
"""A tensor of the graph (a variable, a parameter or a constant) and the number of one of its axes."""

Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Site:
    """One convolution or linear layer.

    Attributes:
        weight: parameter [O, C / groups, kh, kw], or [O, C].
        bias: parameter [O] added to its result, or None.
        rows: places at which it is computed: batch and pixels, or tokens, together.
        taps: places of the kernel, kh * kw; 1 for a linear layer.
        groups: of a convolution.
    """

    weight: str
    bias: str | None
    rows: int
    taps: int = 1
    groups: int = 1


class ChannelGraph:
    """Axes, ties and pins of a canonical model.

    Attributes:
        axes: networkx graph of `Axis`; a node has ``first``, the number of its position 0 among all
            positions of the model; an edge has ``ties``, int arrays [2, n] of such numbers.
        pins: axis -> why none of its positions may be removed.
        sites: by the variable that is their result, in order.
        produced: axes of weights along which channels are made: rows of a layer, columns of a table.
    """

    def __init__(self, model: Model) -> None:
        self.axes = nx.Graph()
        self.pins: dict[Axis, str] = {}
        self.sites: dict[relax.Expr, Site] = {}
        self.produced: set[Axis] = set()
        self._values = {b.var: b.value for b in bindings_of(model)}
        self._weights = {p: p.name for p in model.main.params[len(model.inputs) :]}
        self._count = 0

    @property
    def count(self) -> int:
        """Positions of all axes together."""
        return self._count

    def value(self, expr: relax.Expr) -> relax.Expr:
        """What a variable is bound to; a parameter or anything else is itself."""
        return self._values.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def weight(self, expr: relax.Expr) -> str | None:
        """The name of the weight that an expression is."""
        return self._weights.get(expr) if isinstance(expr, relax.Var) else None

    def add(self, tensor: relax.Expr) -> None:
        """Make the axes of a tensor nodes, if they are none yet."""
        for axis, size in enumerate(shape_of(tensor)):
            if (tensor, axis) in self.axes:
                continue
            self.axes.add_node((tensor, axis), first=self._count)
            self._count += size

    def positions(self, axis: Axis) -> Positions:
        """The numbers of the positions of an axis."""
        first = int(self.axes.nodes[axis]["first"])
        return np.arange(first, first + shape_of(axis[0])[axis[1]])

    def tie(
        self,
        a: Axis,
        b: Axis,
        i: Positions | slice | None = None,
        j: Positions | slice | None = None,
    ) -> None:
        """State that positions ``i`` of ``a`` are ``j`` of ``b``, pair by pair; all where not given."""
        everything = slice(None)
        pairs = np.broadcast_arrays(
            self.positions(a)[everything if i is None else i],
            self.positions(b)[everything if j is None else j],
        )
        if not self.axes.has_edge(a, b):
            self.axes.add_edge(a, b, ties=[])
        self.axes.edges[a, b]["ties"].append(np.stack(pairs))

    def pin(self, tensor: relax.Expr, reason: str, *axes: int) -> None:
        """Forbid that positions of these axes of a tensor are removed; of all where none is given."""
        for axis in axes or range(len(shape_of(tensor))):
            self.pins.setdefault((tensor, axis), reason)

    def add_bias(self, layer: relax.Expr, bias: str) -> None:
        """Note that a weight is added to the result of a layer."""
        self.sites[layer] = replace(self.sites[layer], bias=bias)

    def units(self) -> NDArray[np.intp]:
        """For every position of the model the number of the unit that it belongs to.

        A unit is a largest set of positions that ties connect: what is removed together.
        """
        pairs = [t for _, _, ties in self.axes.edges(data="ties") for t in ties]
        return self._connected(pairs, self._count)

    def free(self, axis: Axis) -> bool:
        """True if some position of the axis is in a unit without a pinned position."""
        if axis in self.pins:
            return False
        near = self.axes.subgraph(nx.node_connected_component(self.axes, axis))
        pairs = [t for _, _, ties in near.edges(data="ties") for t in ties]
        units = self._connected(pairs, self._count)
        pinned = [units[self.positions(a)] for a in near if a in self.pins]
        return not np.isin(units[self.positions(axis)], np.concatenate([[-1], *pinned])).all()

    def components(self) -> Iterator[list[Axis]]:
        """Sets of axes that ties connect; the axes of each in the order in which they were added."""
        for component in nx.connected_components(self.axes):
            yield sorted(component, key=lambda a: self.axes.nodes[a]["first"])

    @staticmethod
    def _connected(pairs: list[NDArray[np.intp]], count: int) -> NDArray[np.intp]:
        i, j = np.concatenate([np.empty((2, 0), np.intp), *pairs], axis=1)
        ties = coo_array((np.ones(len(i), np.bool_), (i, j)), shape=(count, count))
        labels: NDArray[np.intp] = connected_components(ties, directed=False)[1].astype(np.intp)
        return labels
