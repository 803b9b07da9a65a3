"""Models that are quantised already: QDQ files of ONNX Runtime keep their codes and scales."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import tvm
from numpy.typing import NDArray
from onnx import numpy_helper
from tvm import relax

from codesign.frontend import load
from codesign.frontend.onnx_import import from_onnx_file
from codesign.frontend.parity import compare, run_plain
from codesign.pipeline import compile_model
from passes.model import Model
from passes.normalize import normalize
from targets.target import find

if TYPE_CHECKING:
    import torch

Array = NDArray[np.generic]
SHAPES = {"cnn": (2, 3, 13, 11), "mlp": (3, 10)}


def module(name: str) -> torch.nn.Module:
    import torch
    from torch import nn

    torch.manual_seed(0)
    if name == "mlp":
        return nn.Sequential(nn.Linear(10, 21), nn.ReLU(), nn.Linear(21, 6)).eval()
    features = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, stride=2, groups=2), nn.ReLU(), nn.Conv2d(16, 12, 1)),
    ]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)).eval()


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a network, quantised by ONNX Runtime: weights per output, activations per tensor."""
    import torch
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    folder = tmp_path_factory.mktemp("quantised")

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, shape: tuple[int, ...]) -> None:
            self._left = [np.random.default_rng(i).standard_normal(shape) for i in range(4)]

        def get_next(self) -> dict[str, Array] | None:
            return {"x": self._left.pop().astype(np.float32)} if self._left else None

    def make(name: str) -> Path:
        path, plain = folder / f"{name}.onnx", folder / f"{name}_float.onnx"
        if path.exists():
            return path
        example = (torch.zeros(SHAPES[name]),)
        names = {"input_names": ["x"], "output_names": ["y"]}
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module(name), example, str(plain), dynamo=False, **names)
            quantize_static(
                plain,
                path,
                Samples(SHAPES[name]),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8 if name == "cnn" else QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
        logging.disable(logging.NOTSET)
        return path

    return make


def calls(model: Model, name: str) -> list[relax.Call]:
    values = (b.value for block in model.main.body.blocks for b in block.bindings)
    return [v for v in values if getattr(getattr(v, "op", None), "name", "") == f"relax.{name}"]


def value_of(model: Model, var: relax.Expr) -> relax.Call:
    return relax.analysis.get_var2val(model.main)[var]


@pytest.mark.parametrize("name", SHAPES)
def test_weights_stay_codes_and_scales_stay_as_they_are(quantised: Callable, name: str) -> None:
    path = quantised(name)
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    model = normalize(from_onnx_file(path, {}).model)
    layers = [c.args[1] for c in calls(model, "nn.conv2d")]
    layers += [value_of(model, c.args[1]).args[0] for c in calls(model, "matmul")]
    assert len(layers) == {"cnn": 4, "mlp": 2}[name]
    for weight in layers:
        codes, scale, zero = value_of(model, weight).args
        array = model.weights[codes.name]
        assert array.dtype == np.int8
        np.testing.assert_array_equal(array.ravel(), stored[codes.name].ravel())
        wanted = stored[codes.name.replace("_quantized", "_scale")]
        np.testing.assert_array_equal(model.weights[scale.name], wanted)
        assert zero.value.numpy() == 0
    scales = {float(c.args[1].value.numpy()) for c in calls(model, "quantize")}
    assert scales == {float(v) for k, v in stored.items() if v.ndim == 0 and k.endswith("_scale")}
    assert {a.dtype.name for a in model.weights.values()} == {"int8", "float32"}


def test_codes_are_what_is_read_and_moved(quantised: Callable) -> None:
    """Each layer reads dequantised codes, channels last; only codes are transposed, and only once."""
    model = normalize(from_onnx_file(quantised("cnn"), {}).model)
    for layer in calls(model, "nn.conv2d") + calls(model, "matmul"):
        assert value_of(model, layer.args[0]).op.name == "relax.dequantize"
    moved = [c for c in calls(model, "permute_dims") if c.ty.ndim == 4]
    assert [str(c.ty.dtype) for c in moved] == ["uint8"]
    # image, two convolutions, pool, convolution of one position, mean, output; flattening is none
    assert len(calls(model, "quantize")) == 7
    twice = normalize(model)
    count = re.findall(r"= R\.([\w.]+)\(", twice.mod.script())
    assert sorted(count) == sorted(re.findall(r"= R\.([\w.]+)\(", model.mod.script()))


@pytest.mark.parametrize("name", SHAPES)
def test_import_canonical_form_and_kernels_compute_what_onnx_runtime_does(
    quantised: Callable, name: str
) -> None:
    assert load(quantised(name)).parity.relative <= 1e-5
    foreign = from_onnx_file(quantised(name), {})
    model = normalize(foreign.model)
    lowered, executable = compile_model(model, find("host", 1))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    x = np.random.default_rng(7).standard_normal(SHAPES[name]).astype(np.float32)
    tensors = [tvm.runtime.tensor(a) for a in (x, *lowered.weights.values())]
    expected = foreign.reference({"x": x})
    for got in (run_plain(model, {"x": x}), [t.numpy() for t in machine["main"](*tensors)]):
        assert compare(got, expected, 1e-5, "ONNX Runtime").holds
    assert len(np.unique(expected[0])) > 4, "an output of a few codes proves little"


def test_a_matrix_stored_inputs_first_is_turned_as_codes(sketch_of_codes: Callable) -> None:
    """MatMul of ONNX: codes [K, N] with a scale for each column."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (5, 3), np.int8)
    scale = (rng.random(3) + 0.5).astype(np.float32)
    model = normalize(sketch_of_codes(codes, scale, axis=1))
    (product,) = calls(model, "matmul")
    found = value_of(model, value_of(model, product.args[1]).args[0])
    np.testing.assert_array_equal(model.weights[found.args[0].name], codes.T)
    assert int(found.attrs.axis) == 0
    x = rng.standard_normal((2, 5)).astype(np.float32)
    np.testing.assert_allclose(run_plain(model, {"x": x})[0], x @ (codes * scale), rtol=1e-5)


def test_scales_of_inputs_stay_what_they_are(sketch_of_codes: Callable) -> None:
    """A scale for each input is no scale of outputs: computed, not rewritten."""
    rng = np.random.default_rng(1)
    codes = rng.integers(-127, 128, (5, 3), np.int8)
    scale = (rng.random(5) + 0.5).astype(np.float32)
    model = normalize(sketch_of_codes(codes, scale, axis=0))
    x = rng.standard_normal((2, 5)).astype(np.float32)
    wanted = x @ (codes * scale[:, None])
    np.testing.assert_allclose(run_plain(model, {"x": x})[0], wanted, rtol=1e-5)
    assert len(calls(model, "dequantize")) == 1


@pytest.fixture
def sketch_of_codes() -> Callable[..., Model]:
    from passes.model import TensorSpec

    def make(codes: Array, scale: Array, axis: int) -> Model:
        weights = {"w": codes, "s": scale}
        x = relax.Var("x", relax.TensorType((2, 5), "float32"))
        params = [relax.Var(n, relax.TensorType(a.shape, str(a.dtype))) for n, a in weights.items()]
        zero = relax.const(np.int8(0), "int8")
        builder = relax.BlockBuilder()
        with builder.function("main", [x, *params]):
            with builder.dataflow():
                matrix = builder.emit(relax.op.dequantize(*params, zero, axis, "float32"))
                y = builder.emit(relax.op.matmul(x, matrix))
                out = builder.emit_output(relax.Tuple([y]))
            builder.emit_func_output(out)
        specs = (TensorSpec("x", (2, 5), "float32"),), (TensorSpec("y", (2, 3), "float32"),)
        return Model(builder.get(), weights, *specs).check("the test")

    return make
