"""What ``benchmarks.conv_layers`` times: the ways to compute one 3x3 convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
import tvm
from numpy.typing import NDArray
from tvm import tirx

from targets.kernels.cache import strip_bytes
from targets.kernels.conv import conv, pack_conv
from targets.kernels.conv_pattern import conv_pattern, pack_pattern
from targets.kernels.conv_sparse import conv_sparse, pack_conv_sparse
from targets.kernels.spaces import schedules
from targets.kernels.window import Window
from targets.target import Target

Array = NDArray[np.float32]

LAYERS = {
    "vgg-16": (
        (224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256),
        (56, 256, 256), (28, 256, 512), (28, 512, 512), (14, 512, 512),
    ),
    "resnet-18": ((56, 64, 64), (28, 128, 128), (14, 256, 256), (7, 512, 512)),
}  # fmt: skip
"""(height and width, inputs, outputs) of each model's distinct 3x3 layers with stride 1."""

DENSE, ONNXRUNTIME = "dense", "ONNX Runtime"

KEPT_TAPS = 4
CONNECTIVITY = 3.6
BLOCKS = (32, 16, 8)


@dataclass(frozen=True)
class Contestant:
    """One way to compute a layer.

    Attributes:
        way: for the table.
        call: computes the layer once.
        operations: additions and multiplications of the weights that are kept.
        error: largest deviation from float64 by its largest magnitude.
    """

    way: str
    call: Callable[[], object]
    operations: int
    error: float


def contestants(layer: tuple[int, int, int], target: Target) -> Iterator[Contestant]:
    """Every way to compute a layer of LAYERS.

    Connectivity pruning is left out for images with too few channels to remove any.
    """
    size, inputs, outputs = layer
    window = Window(size, size, inputs, (3, 3), padding=(1, 1, 1, 1))
    strip = strip_bytes(target)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, size, size, inputs), dtype=np.float32)
    w = rng.standard_normal((outputs, inputs, 3, 3), dtype=np.float32)
    packed = pack_conv(w, window, target.block)
    func = conv(1, window, outputs, target.block, strip)
    yield ours(DENSE, func, (x, packed), x, w, target)
    yield onnxruntime_dense(x, w, target.threads)
    for factor in (1.0, CONNECTIVITY) if inputs > 2 * CONNECTIVITY else (1.0,):
        suffix = "" if factor == 1 else f", {factor:g}x connectivity"
        for nb in BLOCKS:
            mask = kept(-(-outputs // nb), inputs, round(inputs / factor), rng)
            pruned = w * mask.repeat(nb, axis=0)[:outputs].reshape(w.shape)
            values, index = pack_conv_sparse(pruned, mask, window, nb)
            func = conv_sparse(1, window, outputs, nb, index.shape[1], strip)
            way = f"4 of 9 by {nb}{suffix}"
            yield ours(way, func, (x, values, index), x, pruned, target)
        mask = kept(outputs, inputs, round(inputs / factor), rng)
        pruned = w * mask.reshape(w.shape)
        stored = pack_pattern(pruned, mask, window)
        patterns, taps = stored[-1].shape
        func = conv_pattern(1, window, outputs, stored[0].shape[1], patterns, taps, strip)
        yield ours(f"4 of 9 alone{suffix}", func, (x, *stored), x, pruned, target)


def kept(rows: int, inputs: int, channels: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """bool [rows, inputs * 9]: ``channels`` inputs a row, of each the middle and 3 other positions."""
    mask = np.zeros((rows, inputs, 9), bool)
    for row in mask:
        for c in rng.permutation(inputs)[:channels]:
            others = rng.permutation([0, 1, 2, 3, 5, 6, 7, 8])[: KEPT_TAPS - 1]
            row[c, [4, *others]] = True
    return mask.reshape(rows, -1)


def ours(
    way: str,
    func: tirx.PrimFunc,
    inputs: tuple[NDArray[np.generic], ...],
    x: Array,
    w: Array,
    target: Target,
) -> Contestant:
    """The best guess of a kernel's schedules; ``w`` is the weight that it should compute with."""
    kernel = tvm.compile(schedules(func, target)[0].mod, target=target.tvm())["main"]
    y = tvm.runtime.tensor(np.zeros((1, *x.shape[1:3], len(w)), np.float32))
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in inputs]
    kernel(*arguments, y)
    operations = 2 * x.shape[1] * x.shape[2] * int(np.count_nonzero(w))
    return Contestant(way, lambda: kernel(*arguments, y), operations, deviation(y.numpy(), x, w))


def onnxruntime_dense(x: Array, w: Array, threads: int) -> Contestant:
    """The same layer in ONNX Runtime, which takes NCHW and packs weights as it likes."""
    image = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    shape = (1, len(w), *image.shape[2:])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])],
        "layer",
        [helper.make_tensor_value_info("x", floats, image.shape)],
        [helper.make_tensor_value_info("y", floats, shape)],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    y = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(image))
    binding.bind_ortvalue_output("y", y)
    session.run_with_iobinding(binding)
    error = deviation(y.numpy().transpose(0, 2, 3, 1), x, w)
    operations = 2 * image.shape[2] * image.shape[3] * w.size
    return Contestant(ONNXRUNTIME, lambda: session.run_with_iobinding(binding), operations, error)


def deviation(y: Array, x: Array, w: Array, rows: int = 4) -> float:
    """Largest error of the first rows of an image, by the largest magnitude in float64."""
    top = torch.from_numpy(x[:, : rows + 1].astype(np.float64)).permute(0, 3, 1, 2)
    weight = torch.from_numpy(w.astype(np.float64))
    wanted = torch.nn.functional.conv2d(top, weight, padding=1)[:, :, :rows]
    exact = wanted.permute(0, 2, 3, 1).numpy()
    return float(np.abs(y[:, :rows] - exact).max() / np.abs(exact).max())
