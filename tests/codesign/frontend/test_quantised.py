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
from codesign.kernels import kernels
from codesign.pipeline import canonical, compile_model
from passes.integers import use_integers
from passes.model import Model
from passes.normalize import normalize
from targets.target import find

if TYPE_CHECKING:
    import torch

Array = NDArray[np.generic]
SHAPES = {"cnn": (2, 3, 13, 11), "mlp": (3, 10)}
ALL_SHAPES = {**SHAPES, "encoder": (2, 7, 24)}


def module(name: str) -> torch.nn.Module:
    import torch
    from torch import nn

    torch.manual_seed(0)
    if name == "encoder":  # in a chain, so that it gets no flag but its input
        layer = nn.TransformerEncoderLayer(24, 3, 40, batch_first=True, dropout=0)
        return nn.Sequential(layer).eval()
    if name == "mlp":
        return nn.Sequential(nn.Linear(10, 21), nn.ReLU(), nn.Linear(21, 6)).eval()
    features = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, stride=2, groups=2), nn.ReLU(), nn.Conv2d(16, 12, 1)),
    ]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)).eval()


@pytest.fixture(scope="module")
def export() -> Callable[[Path, str], Path]:
    """Writes a float network into a folder: its path."""
    import torch

    def write(folder: Path, name: str) -> Path:
        path = folder / f"{name}_float.onnx"
        example = (torch.zeros(ALL_SHAPES[name]),)
        names = {"input_names": ["x"], "output_names": ["y"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module(name), example, str(path), dynamo=False, **names)
        return path

    return write


@pytest.fixture(scope="module")
def quantise(export: Callable[[Path, str], Path]) -> Callable[[Path, str, bool], Path]:
    """Writes a network, quantised by ONNX Runtime, into a folder.

    Weights per output and activations per tensor, uint8 for the CNN and int8 for others; if symmetric,
    one scale for a weight, and int8 activations without zero points.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, shape: tuple[int, ...]) -> None:
            self._left = [np.random.default_rng(i).standard_normal(shape) for i in range(4)]

        def get_next(self) -> dict[str, Array] | None:
            return {"x": self._left.pop().astype(np.float32)} if self._left else None

    def make(folder: Path, name: str, symmetric: bool = False) -> Path:
        path = folder / f"{name}.onnx"
        unsigned = name == "cnn" and not symmetric
        logging.disable(logging.WARNING)
        quantize_static(
            export(folder, name),
            path,
            Samples(ALL_SHAPES[name]),
            quant_format=QuantFormat.QDQ,
            per_channel=not symmetric,
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric},
        )
        logging.disable(logging.NOTSET)
        return path

    return make


@pytest.fixture(scope="module")
def quantised(
    tmp_path_factory: pytest.TempPathFactory, quantise: Callable[[Path, str], Path]
) -> Callable[[str], Path]:
    """The path of a network, quantised by ONNX Runtime: weights per output, activations per tensor."""
    folder = tmp_path_factory.mktemp("quantised")

    def path(name: str) -> Path:
        done = folder / f"{name}.onnx"
        return done if done.exists() else quantise(folder, name)

    return path


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


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["mlp", "cnn", "encoder"])
def test_static_models_run_on_their_integers(
    tmp_path: Path, quantise: Callable, name: str, symmetric: bool
) -> None:
    """Asymmetric uint8 with a scale an output, or symmetric int8 with one scale a weight."""
    foreign = from_onnx_file(quantise(tmp_path, name, symmetric), {})
    model, target = canonical(foreign.model), find("host", 1)
    layers = {"mlp": 2, "cnn": 3, "encoder": 4}[name]
    _, report = use_integers(model, target)
    if not target.has_vnni:
        assert len(report.refusals) >= layers
        return
    assert [c.detail for c in report.rewrites] == ["static int8"] * layers
    assert [r.reason for r in report.refusals] == {
        "cnn": ["a convolution in 2 groups has no integer kernel"]
    }.get(name, [])
    lowered, executable = compile_model(model, target)
    names = [k.name for k in kernels(lowered)]
    assert sum("int8_static" in n for n in names) >= layers - 1  # equal kernels are one
    assert not [n for n in names if n.startswith("linear") and "int8" not in n]
    quantised_inside = [n for n in names if "int8_static" in n and "quantize_static" in n]
    assert quantised_inside, "codes are made by the kernel that makes the numbers"
    x = np.random.default_rng(7).standard_normal(ALL_SHAPES[name]).astype(np.float32)
    tensors = [tvm.runtime.tensor(a) for a in (x, *lowered.weights.values())]
    (got,) = (t.numpy() for t in relax.VirtualMachine(executable, tvm.cpu())["main"](*tensors))
    (expected,) = foreign.reference({"x": x})
    values = np.unique(expected)
    assert len(values) > 4
    step = np.diff(values).min()  # of the outputs
    assert np.abs(got - expected).max() < 1.01 * step
    assert (np.abs(got - expected) > 0.01 * step).mean() < 0.05


@pytest.mark.parametrize("name", ["mlp", "encoder"])
def test_dynamically_quantised_models_run_on_their_integers(
    tmp_path: Path, export: Callable, name: str
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = tmp_path / "dynamic.onnx"
    quantize_dynamic(export(tmp_path, name), path, weight_type=QuantType.QInt8)
    foreign = from_onnx_file(path, {})
    model, target = canonical(foreign.model), find("host", 1)
    _, report = use_integers(model, target)
    if not target.has_vnni:
        assert not report.modified
        return
    assert [c.detail for c in report.rewrites] == ["dynamic int8"] * {"mlp": 2, "encoder": 4}[name]
    lowered, executable = compile_model(model, target)
    products = [k.name for k in kernels(lowered) if k.name.startswith("linear")]
    assert products
    assert all(n.startswith("linear_int8_multiply") for n in products)
    x = np.random.default_rng(7).standard_normal(ALL_SHAPES[name]).astype(np.float32)
    tensors = [tvm.runtime.tensor(a) for a in (x, *lowered.weights.values())]
    got = [t.numpy() for t in relax.VirtualMachine(executable, tvm.cpu())["main"](*tensors)]
    assert compare(got, foreign.reference({"x": x}), 1e-2, "ONNX Runtime").holds


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
