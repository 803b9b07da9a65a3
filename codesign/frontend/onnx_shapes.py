"""What an ONNX file computes from shapes alone, as constants: TVM's importer needs to know it.

PyTorch's older exporter writes masks as graphs of Shape, Gather, ConstantOfShape, Range and Where. With all
dimensions fixed they are numbers. Weights are left as they are, so that they keep their names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[np.generic]

LARGEST = 1 << 20
"""Numbers in a result at most: beyond that a graph is smaller than what it computes."""

_SHAPE = "Shape"

_RANDOM = ("Random", "Bernoulli", "Multinomial")


def fold_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what follows from shapes and integer constants as Constant nodes.

    Args:
        proto: with static input shapes; it is left as it is. One without Shape and ConstantOfShape is
            returned itself.
    """
    if not any(node.op_type in (_SHAPE, "ConstantOfShape") for node in proto.graph.node):
        return proto
    folded = onnx.ModelProto()
    folded.CopyFrom(proto)
    known = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if _is_index(t)}
    # a shape that is found makes others known, so that it takes some rounds
    while _fold_once(folded, known):
        pass
    return folded


def _is_index(tensor: onnx.TensorProto) -> bool:
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    return tensor.data_type in kinds or not tensor.dims


def _fold_once(model: onnx.ModelProto, known: dict[str, Array]) -> bool:
    """Fold what can be with the shapes that are inferred now; False if that is nothing new."""
    shapes = _static_shapes(model)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in model.graph.node:
        results = _results(node, known, shapes, model)
        if results is None:
            nodes.append(node)
            continue
        for name, array in zip(node.output, results, strict=True):
            known[name] = array
            nodes.append(_constant(name, array))
        changed |= node.op_type != "Constant"
    if changed:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        del model.graph.value_info[:]
    return changed


def _results(
    node: onnx.NodeProto,
    known: dict[str, Array],
    shapes: dict[str, tuple[int, ...]],
    model: onnx.ModelProto,
) -> list[Array] | None:
    """What a node computes if that is known, else None."""
    if node.op_type == _SHAPE:
        shape = shapes.get(node.input[0])
        if shape is None:
            return None
        ends = {a.name: a.i for a in node.attribute}
        return [np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)]
    inputs = [name for name in node.input if name]
    if node.op_type != "Constant" and (not inputs or any(name not in known for name in inputs)):
        return None
    inner = any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute)
    if inner or node.op_type.startswith(_RANDOM) or node.domain not in ("", "ai.onnx"):
        return None
    if any(np.prod(shapes.get(name, (0,))) > LARGEST for name in node.output):
        return None
    results = _evaluate(node, {name: known[name] for name in inputs}, model)
    if results is None or any(r.size > LARGEST for r in results):
        return None
    return results


def _evaluate(
    node: onnx.NodeProto, feeds: dict[str, Array], model: onnx.ModelProto
) -> list[Array] | None:
    given = [
        onnx.helper.make_tensor_value_info(
            n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for n, a in feeds.items()
    ]
    made = [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in node.output]
    graph = onnx.helper.make_graph([node], "node", given, made)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    try:
        found: list[Any] = ReferenceEvaluator(alone).run(None, feeds)
    except Exception:
        return None  # what cannot be computed here is left to the importer
    return [np.asarray(r) for r in found]


def _constant(name: str, array: Array) -> onnx.NodeProto:
    tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    return onnx.helper.make_node("Constant", [], [name], value=tensor)


def _static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes that are known, of all values."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            if all(d.HasField("dim_value") for d in dims):
                found[value.name] = tuple(d.dim_value for d in dims)
    return found
