"""What depends on static shapes alone is computed before the import; weights and inputs are left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.frontend.onnx_fold import fold_constants

WEIGHT = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] = (3, 5),
    outputs: Sequence[str] = ("y",),
    initializers: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """x [3, 5] and a weight W [5, 7] to float outputs."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(WEIGHT, "W"), *initializers],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def number(name: str, *values: int) -> onnx.NodeProto:
    array = np.array(values, np.int64)
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))


def folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    fold_constants(made)
    return made


def run(proto: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node if node.op_type != "Constant")


# a batch read from the shape of a product, and a mask of that many rows
CHAIN = [
    helper.make_node("MatMul", ["x", "W"], ["h"]),
    helper.make_node("Shape", ["h"], ["shape"]),
    number("zero", 0),
    helper.make_node("Gather", ["shape", "zero"], ["rows"], axis=0),
    number("seven", 7),
    helper.make_node("Concat", ["rows", "seven"], ["wide"], axis=0),
    helper.make_node(
        "ConstantOfShape",
        ["wide"],
        ["ones"],
        value=numpy_helper.from_array(np.ones(1, np.float32)),
    ),
    number("two", 2),
    helper.make_node("Trilu", ["ones", "one"], ["upper"], upper=1),
    helper.make_node("Add", ["h", "upper"], ["y"]),
]
ONE = numpy_helper.from_array(np.array(1, np.int64), "one")


def test_chains_from_shapes_to_masks_are_folded() -> None:
    before = model(CHAIN, initializers=[ONE])
    after = folded(before)
    assert operators(after) == {"MatMul": 1, "Add": 1}
    assert [t.name for t in after.graph.initializer] == ["W", "one"]
    assert len(after.graph.node) == 3, "constants that nothing reads are gone"
    x = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_what_a_dynamic_dimension_decides_stays() -> None:
    assert operators(folded(model(CHAIN, ("batch", 5), initializers=[ONE]))) == operators(
        model(CHAIN)
    )


def test_shapes_that_are_known_once_others_are_folded() -> None:
    """The shape of a reshape's result, whose shape was computed."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        number("place", 1, 0),
        helper.make_node("Gather", ["shape", "place"], ["turned"], axis=0),
        helper.make_node("Reshape", ["x", "turned"], ["r"]),
        helper.make_node("Shape", ["r"], ["again"]),
        helper.make_node("Cast", ["again"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceProd", ["f"], ["all"], keepdims=0),
        helper.make_node("Div", ["r", "all"], ["y"]),
    ]
    before = model(nodes)
    after = folded(before)
    assert operators(after) == {"Reshape": 1, "Div": 1}
    x = np.random.default_rng(2).standard_normal((3, 5)).astype(np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


@pytest.mark.parametrize(
    "nodes",
    [
        [
            helper.make_node("Transpose", ["W"], ["t"]),
            helper.make_node("MatMul", ["x", "t"], ["y"]),
        ],
        [
            helper.make_node("RandomNormal", [], ["r"], shape=[3, 5], dtype=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "r"], ["y"]),
        ],
    ],
    ids=["computed from a weight", "random"],
)
def test_weights_and_random_numbers_stay(nodes: list[onnx.NodeProto]) -> None:
    before = model(nodes)
    fold_constants(after := model(nodes))
    assert after == before


def test_codes_of_a_quantised_weight_stay() -> None:
    numbers = {"Q": np.ones((5, 2), np.int8), "s": np.float32(0.5), "z": np.int8(0)}
    nodes = [
        helper.make_node("DequantizeLinear", ["Q", "s", "z"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    made = model(
        nodes, initializers=[numpy_helper.from_array(np.asarray(a), n) for n, a in numbers.items()]
    )
    assert operators(folded(made)) == {"DequantizeLinear": 1, "MatMul": 1}


def test_constants_that_are_outputs_or_read_in_branches_are_kept() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "size"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["out"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["out"], ["size"], keepdims=0),
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["any"], to=TensorProto.BOOL),
        helper.make_node("If", ["any"], ["y"], then_branch=inner, else_branch=inner),
    ]
    before = model(nodes, outputs=("y", "out"))
    after = folded(before)
    assert operators(after) == {"ReduceMax": 1, "Cast": 1, "If": 1}
    x = np.random.default_rng(3).standard_normal((3, 5)).astype(np.float32)
    for ours, theirs in zip(run(after, x), run(before, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
