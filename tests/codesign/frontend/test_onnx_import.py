"""ONNX files: names, dynamic shapes, and every way in which a file can be unfit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import UserError
from codesign.frontend import load


def write(
    path: Path,
    *,
    batch: int | str = 2,
    op: str = "Relu",
    domain: str = "",
    weight: np.ndarray | None = None,
    external: bool = False,
) -> Path:
    """x [batch, 4] -> MatMul with a [4, 3] weight -> one more operator -> y."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3) if weight is None else weight
    nodes = [
        helper.make_node("MatMul", ["x", "fc.weight"], ["h"], name="/fc/MatMul"),
        helper.make_node(op, ["h"], ["y"], name="/act", domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weight, "fc.weight")],
    )
    opsets = [helper.make_opsetid("", 18)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(
        model,
        path,
        save_as_external_data=external,
        location=f"{path.name}.data",
        size_threshold=0,
    )
    return path


def test_names_of_inputs_weights_and_outputs_are_kept(tmp_path: Path) -> None:
    imported = load(write(tmp_path / "net.onnx"))
    model = imported.model
    assert [s.name for s in model.inputs] == ["x"]
    assert list(model.weights) == ["fc.weight"]
    assert [(s.name, s.shape) for s in model.outputs] == [("y", (2, 3))]
    assert imported.parity.original == "ONNX Runtime"
    assert imported.parity.relative <= 1e-6


def test_a_named_dimension_is_bound(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", batch="batch")
    for dims in ({"batch": 5}, {"x.0": 5}):
        model = load(path, dims=dims).model
        assert (model.inputs[0].shape, model.outputs[0].shape) == ((5, 4), (5, 3))


def test_an_unbound_dimension_is_named_with_its_input(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", batch="batch")
    with pytest.raises(UserError, match="dimension batch of input x is dynamic") as raised:
        load(path)
    assert "--dim batch=" in raised.value.next
    with pytest.raises(UserError, match="no dynamic dimension seq"):
        load(path, dims={"seq": 3})
    with pytest.raises(UserError, match="at least 1"):
        load(path, dims={"batch": 0})


def test_a_text_under_the_name_of_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for content in (b"this is no model\n", b"", b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not an ONNX model"):
            load(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "net.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="damaged or cut off"):
        load(path)


def test_missing_external_data_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", external=True)
    assert load(path).parity.holds
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(UserError, match="damaged or cut off"):
        load(path)


@pytest.mark.parametrize(("op", "domain"), [("MyGelu", "my.domain"), ("Bernoulli", "")])
def test_an_operator_that_cannot_be_lowered_is_named_with_its_node(
    tmp_path: Path, op: str, domain: str
) -> None:
    with pytest.raises(UserError, match=f"operator {op}.*cannot be lowered") as raised:
        load(write(tmp_path / "net.onnx", op=op, domain=domain))
    assert "/act" in raised.value.got
    assert raised.value.next


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    weight = np.ones((4, 3), np.float32)
    weight[1, 1] = np.nan
    with pytest.raises(UserError, match=r"fc\.weight holds NaN") as raised:
        load(write(tmp_path / "net.onnx", weight=weight))
    assert raised.value.got.startswith("1 of 12")


def test_a_real_export_is_imported_like_the_module(onnx_example: Callable) -> None:
    imported = load(onnx_example("encoder pre"))
    assert imported.parity.relative < 1e-5
    assert [s.name for s in imported.model.inputs] == ["src"]
