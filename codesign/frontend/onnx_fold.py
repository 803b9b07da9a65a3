"""Computations of shapes, indices and masks in an ONNX graph, done before it is imported.

Exporters write out how they get at a shape: the older one of PyTorch has chains of Shape, Gather, ConstantOfShape
and Expand around every mask. Where the inputs have static shapes these depend on no input, and TVM's importer
knows some of the operators only with numbers that it can see, or not on all shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

Array = NDArray[np.generic]

_NUMBERS = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
"""Types of initializers that are no weights: ONNX has shapes, axes and indices in int64."""

_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


def fold_constants(proto: onnx.ModelProto) -> None:
    """Replace what depends on static shapes and constants alone by constants; ``proto`` is changed.

    Weights stay as they are, and what is computed from them: floats and codes among the initializers.

    Args:
        proto: a checked model. Where inputs have dynamic dimensions, less is known.
    """
    while _fold_once(proto):
        pass


def _fold_once(proto: onnx.ModelProto) -> bool:
    """Fold all that can be, by the shapes known so far; whether there was anything."""
    graph = proto.graph
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type in _NUMBERS}
    shapes = _shapes(proto)
    kept: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        found = None if _is_constant(node) else _value(node, known, shapes, proto.opset_import)
        if found is None:
            kept.append(node)
            if _is_constant(node):
                known |= _outputs(node, proto.opset_import, {}) or {}
            continue
        known |= found
        changed = True
        kept += [_constant(name, array) for name, array in found.items()]
    if changed:
        del graph.node[:]
        graph.node.extend(_needed(kept, [o.name for o in graph.output]))
    return changed


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _value(
    node: onnx.NodeProto,
    known: Mapping[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> dict[str, Array] | None:
    """The outputs of a node; None unless they are known."""
    nested = any(a.HasField("g") or a.graphs for a in node.attribute)
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM or nested or not node.input:
        return None
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        # only the shape counts, so that the numbers need not be there
        given = {node.input[0]: np.broadcast_to(np.float32(0), shapes[node.input[0]])}
        return _outputs(node, opsets, given)
    read = [name for name in node.input if name]
    if not all(name in known for name in read):
        return None
    return _outputs(node, opsets, {name: known[name] for name in read})


def _outputs(
    node: onnx.NodeProto, opsets: Iterable[onnx.OperatorSetIdProto], given: Mapping[str, Array]
) -> dict[str, Array] | None:
    """What ONNX's reference says that a node computes; None where it does not know."""
    names = [name for name in node.output if name]
    inputs = [helper.make_tensor_value_info(n, _dtype(a), a.shape) for n, a in given.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    one = helper.make_graph([node], "one", inputs, outputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = ReferenceEvaluator(helper.make_model(one, opset_imports=opsets))
            arrays = made.run(None, dict(given))
    except Exception:  # a node that cannot be: the importer names it
        return None
    if not all(isinstance(array, np.ndarray | np.generic) for array in arrays):
        return None  # sequences and optionals
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}


def _constant(name: str, array: Array) -> onnx.NodeProto:
    value = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    return helper.make_node("Constant", [], [name], name=f"{name}/folded", value=value)


def _needed(nodes: list[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes without constants that nothing reads any more."""
    read = {name for node in nodes for name in _reads(node)} | set(outputs)
    return [n for n in nodes if not _is_constant(n) or not read.isdisjoint(n.output)]


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, in subgraphs too."""
    found = list(node.input)
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            found += [name for inner in graph.node for name in _reads(inner)]
            found += [output.name for output in graph.output]
    return found


def _shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The static shapes of values, by name, as ONNX's shape inference finds them."""
    graph = proto.graph
    given = {i.name for i in graph.input}
    # inference copies the model, and of weights it needs the types alone
    weights = [t for t in graph.initializer if t.data_type not in _NUMBERS]
    light = helper.make_model(
        helper.make_graph(
            graph.node,
            graph.name or "light",
            [
                *graph.input,
                *(
                    helper.make_tensor_value_info(t.name, t.data_type, t.dims)
                    for t in weights
                    if t.name not in given
                ),
            ],
            graph.output,
            [t for t in graph.initializer if t.data_type in _NUMBERS],
            value_info=graph.value_info,
        ),
        opset_imports=proto.opset_import,
        ir_version=proto.ir_version,
        functions=proto.functions,
    )
    inferred = shape_inference.infer_shapes(light, data_prop=True).graph
    found = {}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor_type = info.type.tensor_type
        dims = tensor_type.shape.dim
        if tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[info.name] = tuple(int(d.dim_value) for d in dims)
    return found


def _dtype(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))
