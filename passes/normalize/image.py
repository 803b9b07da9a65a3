"""Layout of images: importers write [N, C, H, W], what is written here reads [N, H, W, C].

The result of each operator is a view that permutes back, so that the transposes of neighbours
cancel and elementwise operators between them run on images as they lie.
"""

from __future__ import annotations

from tvm import relax

from passes.normalize.graph import Graph
from passes.normalize.values import Tensor

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def channels_last(graph: Graph, x: Tensor) -> relax.Expr:
    """[N, C, H, W] as [N, H, W, C]."""
    return graph.read(turned(graph, x, TO_NHWC))


def channels_first(graph: Graph, y: relax.Expr) -> Tensor:
    """The result [N, H, W, C] of an operator, seen as [N, C, H, W]."""
    return turned(graph, graph.tensor(y), TO_NCHW)


def turned(graph: Graph, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``x`` with its axes in another order; a broadcast that cannot be turned is written out."""
    found = x.permute(axes) or Tensor.of(graph.read(x)).permute(axes)
    assert found is not None  # without a broadcast it can be turned in any way
    return found
