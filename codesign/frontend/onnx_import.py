"""ONNX files: checked, given static shapes, imported, and run by ONNX Runtime for comparison."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray
from tvm.relax.frontend.onnx import from_onnx

from codesign.errors import UserError
from codesign.frontend.dimensions import Dynamic, bind
from codesign.frontend.foreign import Foreign, as_model
from codesign.frontend.onnx_fold import fold_constants

Array = NDArray[np.generic]

FIRST_BYTE = 0x08
"""Every ONNX file starts with its IR version: field 1 of the protobuf, an integer."""


def from_onnx_file(path: Path, sizes: Mapping[str, int]) -> Foreign:
    """Import an ONNX file with weights as named parameters.

    Args:
        path: the file; weights beside it in external data files are found.
        sizes: of dynamic dimensions, see ``dimensions.bind``.

    Raises:
        UserError: not an ONNX file, damaged, an unbound dimension, or an operator that is not
            supported (with its node).
    """
    proto = _read(path)
    initial = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in initial]
    _fix_shapes(proto, inputs, sizes)
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    fold_constants(plain)
    mod = _convert(plain, path)
    names = [i.name for i in inputs]
    count = len(mod["main"].params) - len(mod["main"].attrs["params"] or ())
    arrays = [p.numpy() for p in mod["main"].attrs["params"]]
    weights = {p.name: a for p, a in zip(mod["main"].params[count:], arrays, strict=True)}
    outputs = [o.name for o in proto.graph.output]
    model = as_model(mod, names, weights, outputs, path.stem)
    return Foreign(model, "ONNX Runtime", lambda feeds: _run(proto, feeds))


def _read(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except FileNotFoundError as error:
        raise _damaged(path, f"external data is missing: {error.filename}") from error
    except Exception as error:
        first = path.open("rb").read(1)
        if first != bytes([FIRST_BYTE]):
            raise UserError(
                f"{path} is not an ONNX model",
                got=f"a file of {path.stat().st_size} bytes that does not start as one",
                next="export it with torch.onnx.export(..., dynamo=True)",
            ) from error
        raise _damaged(path, str(error).strip().splitlines()[0][:300]) from error
    if not proto.graph.node:
        raise _damaged(path, "a graph without nodes")
    return proto


def _damaged(path: Path, got: str) -> UserError:
    return UserError(
        f"{path} is damaged or cut off",
        got=f"{got} ({path.stat().st_size} bytes)",
        allowed="a complete ONNX file, its external data beside it",
        next="copy or export the file again",
    )


def _fix_shapes(proto: onnx.ModelProto, inputs: list[Any], sizes: Mapping[str, int]) -> None:
    """Write the bound sizes into the graph's inputs; shapes stated further down are dropped."""
    found = [
        Dynamic(i.name, axis, dim.dim_param)
        for i in inputs
        for axis, dim in enumerate(i.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value") or dim.dim_value < 1
    ]
    bound = bind(found, sizes)
    for value in inputs:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            place = f"{value.name}.{axis}"
            if place in bound:
                dim.dim_value = bound[place]
    if bound:
        del proto.graph.value_info[:]
        for output in proto.graph.output:
            output.type.tensor_type.ClearField("shape")


def _convert(proto: onnx.ModelProto, path: Path) -> tvm.IRModule:
    printed = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")
            return from_onnx(proto, keep_params_in_input=True, sanitize_input_names=False)
    except Exception as error:
        raise _unsupported(proto, path, str(error), printed.getvalue()) from error


def _unsupported(proto: onnx.ModelProto, path: Path, message: str, printed: str) -> UserError:
    """Which operator the importer refused, and the first node that has it."""
    listed = re.search(r"not supported for frontend ONNX: (.*)", message)
    failed = re.search(r"Error converting operator (\w+)", printed)
    ops = listed[1].split(", ") if listed else [failed[1]] if failed else []
    nodes = [n for n in proto.graph.node if n.op_type in ops]
    if not nodes:
        return UserError(f"{path} cannot be imported", got=message.strip().splitlines()[-1][:300])
    node = nodes[0]
    domain = f" of domain {node.domain}" if node.domain not in ("", "ai.onnx") else ""
    why = "" if listed else f" ({message.strip().splitlines()[-1][:200]})"
    return UserError(
        f"operator {node.op_type}{domain} of {path} cannot be lowered",
        got=f"node {node.name or node.output[0]}{why}",
        allowed="standard ONNX operators that TVM's Relax frontend knows",
        next="export again with another opset or without custom operators, or import from PyTorch",
    )


def _run(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        # its integer kernels round elsewhere than the standard says
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, dict(feeds))
    return outputs
