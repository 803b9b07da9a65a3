"""Canonical convolutions run as packed kernels, with what follows them fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.kernels import kernels
from codesign.pipeline import compile_model
from passes.lower import PACKED, lower, lowered_weights
from passes.lower_conv import DEPTHWISE
from passes.model import Model
from passes.normalize import normalize
from targets.target import Target, find

Array = NDArray[np.float32]
op = relax.op


@pytest.fixture(scope="module", params=[1, 2])
def target(request: pytest.FixtureRequest) -> Target:
    return find("host", request.param)


def noise(*shape: int) -> Array:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


def run(model: Model, target: Target, x: Array) -> list[Array]:
    lowered, executable = compile_model(model, target)
    tensors = [tvm.runtime.tensor(v) for v in (x, *lowered.weights.values())]
    return [t.numpy() for t in relax.VirtualMachine(executable, tvm.cpu())["main"](*tensors)]


def f64(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


@pytest.mark.parametrize(
    ("weight", "strides", "padding", "dilation", "groups"),
    [
        ((35, 5, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ((7, 5, 2, 3), (2, 1), (0, 2, 1, 0), (2, 1), 1),
        ((7, 5, 3, 2), (1, 3), (1, 0, 0, 1), (1, 2), 1),
        ((33, 5, 1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
        ((5, 1, 3, 4), (2, 1), (1, 0, 2, 1), (1, 2), 5),
        ((10, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 5),
    ],
)
def test_a_convolution_with_bias_and_activation_is_one_kernel(
    sketch: Callable,
    target: Target,
    weight: tuple[int, ...],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    w, b = noise(*weight), noise(weight[0])
    attrs: dict[str, Any] = {"strides": strides, "dilation": dilation, "groups": groups}

    def draw(s: Any) -> list[relax.Var]:
        y = s.bb.emit(op.nn.conv2d(s.x, s.params["w"], padding=padding, **attrs))
        bias = s.bb.emit(op.reshape(s.params["b"], (1, weight[0], 1, 1)))
        return [s.bb.emit(op.nn.silu(s.bb.emit(op.add(y, bias))))]

    model = normalize(sketch((3, 5, 9, 11), {"w": w, "b": b}, draw))
    x = noise(3, 5, 9, 11)
    top, left, bottom, right = padding
    padded = F.pad(f64(x), (left, right, top, bottom))
    wanted = F.silu(F.conv2d(padded, f64(w), f64(b), strides, 0, dilation, groups))
    (got,) = run(model, target, x)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    lowered = lower(model, target)
    assert len(kernels(lowered)) == 3, "the image moved, the convolution, the image moved back"
    made = DEPTHWISE if groups == weight[0] else PACKED if groups == 1 else ""
    assert set(lowered.weights) == {"w" + made, "b"}


def test_a_residual_sum_is_part_of_the_convolution_before_it(
    sketch: Callable, target: Target
) -> None:
    w = noise(5, 5, 3, 3)

    def draw(s: Any) -> list[relax.Var]:
        y = s.bb.emit(op.nn.conv2d(s.x, s.params["w"], padding=1))
        return [s.bb.emit(op.nn.relu(s.bb.emit(op.add(s.x, y))))]

    model = normalize(sketch((2, 5, 6, 7), {"w": w}, draw))
    names = [k.name for k in kernels(lower(model, target))]
    assert names == ["transpose", "conv_add_relu", "transpose"]
    x = noise(2, 5, 6, 7)
    wanted = F.relu(f64(x) + F.conv2d(f64(x), f64(w), padding=1))
    np.testing.assert_allclose(run(model, target, x)[0], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(5, 1), (5, 5), (1, 1)])
def test_a_packed_weight_is_made_without_the_graph(
    sketch: Callable, channels: int, groups: int
) -> None:
    target, w = find("host"), noise(5, channels // groups, 3, 3)

    def draw(s: Any) -> list[relax.Var]:
        return [s.bb.emit(op.nn.conv2d(s.x, s.params["w"], padding=2, dilation=2, groups=groups))]

    lowered = lower(normalize(sketch((1, channels, 9, 9), {"w": w}, draw)), target)
    (name,) = lowered.weights
    alone = lowered_weights([name], {"w": w}, target)
    np.testing.assert_array_equal(alone[name], lowered.weights[name])


def test_images_are_pooled_in_vectors_of_channels(sketch: Callable, target: Target) -> None:
    """Pools and means of 2 x 64 channels: no loop over single channels is left."""
    w = noise(64, 3, 1, 1)

    def draw(s: Any) -> list[relax.Var]:
        y = s.bb.emit(op.nn.conv2d(s.x, s.params["w"]))
        pooled = s.bb.emit(op.nn.max_pool2d(y, (3, 3), (2, 2), (1, 1)))
        return [s.bb.emit(op.mean(pooled, [2, 3])), s.bb.emit(op.nn.avg_pool2d(y, (2, 2), (2, 2)))]

    model = normalize(sketch((2, 3, 8, 8), {"w": w}, draw))
    x = noise(2, 3, 8, 8)
    y = F.conv2d(f64(x), f64(w))
    wanted = [F.max_pool2d(y, 3, 2, 1).mean((2, 3)), F.avg_pool2d(y, 2)]
    for got, reference in zip(run(model, target, x), wanted, strict=True):
        np.testing.assert_allclose(got, reference, rtol=0, atol=1e-5)
