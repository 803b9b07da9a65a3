"""Channels through a change of shape: which axis goes on in which."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax

from passes.channels.graph import Axis, ChannelGraph
from passes.patterns import shape_of

VIEWS = ("relax.reshape", "relax.flatten", "relax.squeeze", "relax.expand_dims")
"""Operators that only change the shape; ``prune`` writes each as a reshape."""


def tie_view(graph: ChannelGraph, var: relax.Var, source: relax.Expr) -> None:
    """Tie the axes of a tensor to those of the same numbers in another shape.

    Axes that go on as they are, are tied to themselves. Where one axis is split up or several are
    joined, a channel of one part is a regular list of positions of the whole (a block or a stride):
    channels can be removed along one of the parts only, and that is the largest that is not pinned.
    """
    for old, new in blocks(shape_of(source), shape_of(var)):
        left, right = [(source, i) for i in old], [(var, j) for j in new]
        if len(left) == len(right) == 1:
            graph.tie(left[0], right[0])
        elif len(left) == 1:
            _tie_merged(graph, left[0], right)
        elif len(right) == 1:
            _tie_merged(graph, right[0], left)
        else:
            for tensor, axis in [*left, *right]:
                graph.pin(tensor, "a reshape mixes them with others", axis)


def _tie_merged(graph: ChannelGraph, whole: Axis, parts: list[Axis]) -> None:
    """Tie one axis to one of the axes that it is the product of, and pin the other parts."""
    sizes = [shape_of(tensor)[axis] for tensor, axis in parts]
    free = [at for at, part in enumerate(parts) if graph.free(part)]
    chosen = max(free, key=lambda at: sizes[at], default=None)
    for at, (tensor, axis) in enumerate(parts):
        if at != chosen:
            graph.pin(tensor, "a reshape joins them with the channels", axis)
    if chosen is None:
        graph.pin(whole[0], "a reshape joins them of axes that must stay", whole[1])
        return
    inner = prod(sizes[chosen + 1 :])
    channels = np.arange(prod(sizes)) // inner % sizes[chosen]
    graph.tie(parts[chosen], whole, channels, None)


def blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes of two shapes that have equal products; axes of size 1 are in none."""
    left = [i for i, size in enumerate(old) if size > 1]
    right = [j for j, size in enumerate(new) if size > 1]
    found = []
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        while (p := prod(old[i] for i in a)) != (q := prod(new[j] for j in b)):
            if p < q:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        found.append((a, b))
    return found
