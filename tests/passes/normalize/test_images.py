"""Convolutions and what stands around them, against PyTorch in float64."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tvm import relax

from passes.model import Model
from passes.normalize import normalize

Array = NDArray[np.float32]
Draw = Callable[[Any], list[relax.Var]]
op = relax.op


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def f64(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def number(value: float) -> relax.Expr:
    return relax.const(value, "float32")


def operators(model: Model) -> list[str]:
    return re.findall(r"= R\.([\w.]+)\(", model.mod.script())


@pytest.fixture
def check(sketch: Callable[..., Model], execute: Callable) -> Callable[..., Model]:
    """``check(shape, weights, draw, expected)``: the canonical form, which must compute ``expected``."""

    def run(
        shape: tuple[int, ...],
        weights: dict[str, Array],
        draw: Draw,
        expected: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    ) -> Model:
        model = normalize(sketch(shape, weights, draw))
        again = normalize(model)
        assert Counter(operators(again)) == Counter(operators(model)), "not a fixed point"
        x = noise(*shape, seed=9)
        for got, wanted in zip(execute(model, {"x": x}), expected(f64(x)), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))
        return model

    return run


def biased(s: Any, y: relax.Var, bias: str) -> relax.Var:
    """y + b as importers write it."""
    shape = [1, -1, *[1] * (y.ty.ndim - 2)]
    return s.bb.emit(op.add(y, s.bb.emit(op.reshape(s.params[bias], shape))))


@pytest.mark.parametrize(
    ("weight", "strides", "padding", "dilation", "groups"),
    [
        ((5, 6, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ((5, 6, 3, 2), (2, 1), (0, 1, 2, 0), (1, 2), 1),
        ((5, 6, 1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
        ((6, 1, 5, 5), (1, 2), (2, 2, 2, 2), (1, 1), 6),
        ((9, 2, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 3),
        ((12, 1, 3, 1), (1, 1), (1, 0, 1, 0), (1, 1), 6),
    ],
)
def test_a_convolution_reads_and_gives_nhwc(
    check: Callable,
    weight: tuple[int, ...],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    w, b = noise(*weight), noise(weight[0])
    attrs = {"strides": strides, "dilation": dilation, "groups": groups}

    def draw(s: Any) -> list[relax.Var]:
        y = s.bb.emit(op.nn.conv2d(s.x, s.params["w"], padding=padding, **attrs))
        return [biased(s, y, "b")]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        top, left, bottom, right = padding
        x = F.pad(x, (left, right, top, bottom))
        return [F.conv2d(x, f64(w), f64(b), strides, 0, dilation, groups)]

    model = check((2, 6, 9, 7), {"w": w, "b": b}, draw, expected)
    assert operators(model) == ["permute_dims", "nn.conv2d", "add", "permute_dims"]
    conv, add = model.main.body.blocks[0].bindings[1:3]
    layouts = (conv.value.attrs.data_layout, conv.value.attrs.kernel_layout)
    assert layouts == ("NHWC", "OIHW")
    assert add.value.args[1].name == "b"
    np.testing.assert_array_equal(model.weights["w"], w)
    np.testing.assert_array_equal(model.weights["b"], b)


def test_a_convolution_of_one_position_is_a_linear_layer(check: Callable) -> None:
    w, b = noise(5, 6, 1, 1), noise(5)

    def draw(s: Any) -> list[relax.Var]:
        return [biased(s, s.bb.emit(op.nn.conv2d(s.x, s.params["w"])), "b")]

    model = check((2, 6, 3, 7), {"w": w, "b": b}, draw, lambda x: [F.conv2d(x, f64(w), f64(b))])
    assert operators(model) == ["permute_dims"] * 2 + ["matmul", "add", "permute_dims"]
    assert model.weights["w"].shape == (5, 6)


def test_patches_of_an_image_go_through_a_linear_layer(check: Callable) -> None:
    w, second = noise(5, 3, 2, 4), noise(4, 5, 3, 2)

    def draw(s: Any) -> list[relax.Var]:
        y = s.bb.emit(op.nn.conv2d(s.x, s.params["w"], strides=(2, 4)))
        # where the image lies channels last already, windows side by side stay a convolution
        return [s.bb.emit(op.nn.conv2d(y, s.params["second"], strides=(3, 2)))]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        y = F.conv2d(x, f64(w), stride=(2, 4))
        return [F.conv2d(y, f64(second), stride=(3, 2))]

    model = check((2, 3, 6, 16), {"w": w, "second": second}, draw, expected)
    assert operators(model).count("matmul") == operators(model).count("nn.conv2d") == 1
    np.testing.assert_array_equal(model.weights["w"], w.reshape(5, -1))


def test_a_convolution_of_sequences_is_one_of_images_of_height_one(check: Callable) -> None:
    w, b = noise(5, 2, 3), noise(5)

    def draw(s: Any) -> list[relax.Var]:
        conv = op.nn.conv1d(s.x, s.params["w"], 2, (1, 0), 2, groups=1)
        return [biased(s, s.bb.emit(conv), "b")]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        return [F.conv1d(F.pad(x, (1, 0)), f64(w), f64(b), 2, 0, 2)]

    model = check((3, 2, 11), {"w": w, "b": b}, draw, expected)
    assert model.weights["w"].shape == (5, 2, 1, 3)


@pytest.mark.parametrize("before", [False, True])
def test_zeros_around_an_image_are_padding_of_the_convolution(
    check: Callable, before: bool
) -> None:
    """On the input itself, and on what another convolution left."""
    w = noise(3, 3, 2, 2)
    widths = [0, 0, 0, 0, 1, 0, 2, 3]

    def draw(s: Any) -> list[relax.Var]:
        x = s.bb.emit(op.nn.conv2d(s.x, s.params["w"])) if before else s.x
        padded = s.bb.emit(op.nn.pad(x, widths))
        return [s.bb.emit(op.nn.conv2d(padded, s.params["w"], padding=(0, 1)))]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        x = F.conv2d(x, f64(w)) if before else x
        return [F.conv2d(F.pad(x, (2 + 1, 3 + 1, 1, 0)), f64(w))]

    model = check((2, 3, 5, 4), {"w": w}, draw, expected)
    assert "nn.pad" not in operators(model)
    conv = model.main.body.blocks[0].bindings[-3].value
    assert [int(p) for p in conv.attrs.padding] == [1, 3, 0, 4]


@pytest.mark.parametrize(
    ("mode", "value", "channels"), [("constant", 1.0, 0), ("constant", 0.0, 1)]
)
def test_other_padding_stays(check: Callable, mode: str, value: float, channels: int) -> None:
    first, w = noise(3, 2, 2, 2), noise(4, 3 + channels, 1, 3)

    def draw(s: Any) -> list[relax.Var]:
        y = s.bb.emit(op.nn.conv2d(s.x, s.params["first"]))
        y = s.bb.emit(op.nn.pad(y, [0, 0, channels, 0, 1, 1, 2, 0], mode, value))
        return [s.bb.emit(op.nn.conv2d(y, s.params["w"]))]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        y = F.pad(F.conv2d(x, f64(first)), (2, 0, 1, 1, channels, 0), mode, value)
        return [F.conv2d(y, f64(w))]

    model = check((2, 2, 5, 4), {"first": first, "w": w}, draw, expected)
    assert operators(model).count("permute_dims") == 2, "one at each end"


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_batch_norm_is_part_of_the_layer_before_it(
    check: Callable, parts: bool, kernel: int
) -> None:
    w, b = noise(5, 3, kernel, kernel), noise(5)
    gamma, beta, mean, var = noise(5, seed=1), noise(5, seed=2), noise(5, seed=3), noise(5) ** 2
    weights = {"w": w, "b": b, "gamma": gamma, "beta": beta, "mean": mean, "var": var}

    def draw(s: Any) -> list[relax.Var]:
        emit, p = s.bb.emit, s.params
        y = biased(s, emit(op.nn.conv2d(s.x, p["w"])), "b")
        if not parts:
            norm = op.nn.batch_norm(
                y, p["gamma"], p["beta"], p["mean"], p["var"], 1, 1e-3, training=False
            )
            return [emit(relax.TupleGetItem(emit(norm), 0))]
        gamma, beta, mean, var = (
            emit(op.reshape(p[n], (1, 5, 1, 1))) for n in ("gamma", "beta", "mean", "var")
        )
        root = emit(op.sqrt(emit(op.add(var, number(1e-3)))))
        y = emit(op.divide(emit(op.subtract(y, mean)), root))
        return [emit(op.add(emit(op.multiply(y, gamma)), beta))]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        y = F.conv2d(x, f64(w), f64(b))
        return [F.batch_norm(y, f64(mean), f64(var), f64(gamma), f64(beta), eps=1e-3)]

    model = check((2, 3, 5, 6), weights, draw, expected)
    assert len(model.weights) == 2
    assert not {"multiply", "divide", "subtract"} & set(operators(model))
    assert operators(model).count("add") == 1


def test_batch_norm_of_what_others_read_too_is_a_scale_and_a_shift(check: Callable) -> None:
    w, gamma, beta, mean, var = noise(4, 3, 2, 2), *(noise(4, seed=i) for i in range(4))
    weights = {"w": w, "gamma": gamma, "beta": beta, "mean": mean, "var": var**2}

    def draw(s: Any) -> list[relax.Var]:
        y = s.bb.emit(op.nn.conv2d(s.x, s.params["w"]))
        vectors = [s.params[n] for n in ("gamma", "beta", "mean", "var")]
        norm = s.bb.emit(op.nn.batch_norm(y, *vectors, 1, training=False))
        return [s.bb.emit(relax.TupleGetItem(norm, 0)), y]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        y = F.conv2d(x, f64(w))
        return [F.batch_norm(y, f64(mean), f64(var) ** 2, f64(gamma), f64(beta)), y]

    model = check((2, 3, 5, 6), weights, draw, expected)
    np.testing.assert_array_equal(model.weights["w"], w)
    assert [v.shape for v in model.weights.values()] == [(4, 3, 2, 2), (4,), (4,)]
    assert operators(model).count("multiply") == operators(model).count("add") == 1


def test_pools_are_taken_channels_last(check: Callable) -> None:
    w = noise(4, 3, 1, 1)

    def draw(s: Any) -> list[relax.Var]:
        emit, nn = s.bb.emit, op.nn
        y = emit(nn.conv2d(s.x, s.params["w"]))
        return [
            emit(nn.max_pool2d(y, (3, 2), (2, 2), (1, 0), ceil_mode=True)),
            emit(nn.max_pool2d(y, (2, 2), (2, 1), (0, 0), (2, 1))),
            emit(nn.avg_pool2d(y, (2, 3), (2, 1), (1, 1), count_include_pad=True)),
            emit(nn.avg_pool2d(y, (2, 3), (1, 2), (1, 1), count_include_pad=False)),
            emit(nn.adaptive_avg_pool2d(y, (4, 3))),
            emit(nn.adaptive_avg_pool2d(y, (3, 5))),
        ]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        y = F.conv2d(x, f64(w))
        return [
            F.max_pool2d(y, (3, 2), (2, 2), (1, 0), ceil_mode=True),
            F.max_pool2d(y, (2, 2), (2, 1), 0, (2, 1)),
            F.avg_pool2d(y, (2, 3), (2, 1), (1, 1), count_include_pad=True),
            F.avg_pool2d(y, (2, 3), (1, 2), (1, 1), count_include_pad=False),
            F.adaptive_avg_pool2d(y, (4, 3)),
            F.adaptive_avg_pool2d(y, (3, 5)),
        ]

    model = check((2, 3, 8, 9), {"w": w}, draw, expected)
    found = operators(model)
    assert found.count("nn.avg_pool2d") == 3, "one of them adaptive, of windows of one size"
    assert found.count("nn.adaptive_avg_pool2d") == 1
    assert 'layout="NCHW"' not in model.mod.script()
    assert "ceil_mode=True" not in model.mod.script()


def test_every_mean_of_whole_images_is_the_same(check: Callable) -> None:
    w, head = noise(4, 3, 1, 1), noise(5, 4)

    def draw(s: Any) -> list[relax.Var]:
        emit, nn = s.bb.emit, op.nn
        y = emit(nn.conv2d(s.x, s.params["w"]))
        means = [
            emit(op.mean(y, [2, 3])),
            emit(op.mean(y, [-1, -2], keepdims=True)),
            emit(nn.adaptive_avg_pool2d(y, (1, 1))),
            emit(nn.avg_pool2d(y, (3, 7))),
        ]
        flat = [emit(op.reshape(m, (2, 4))) for m in means]
        turned = emit(op.permute_dims(s.params["head"], [1, 0]))
        return [emit(op.matmul(f, turned)) for f in flat]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        return [F.conv2d(x, f64(w)).mean((2, 3)) @ f64(head).T] * 4

    model = check((2, 3, 3, 7), {"w": w, "head": head}, draw, expected)
    found = operators(model)
    assert found.count("mean") == 1
    assert found.count("permute_dims") == 1 + 5, "the image, and each weight"


def test_a_flattened_image_is_not_moved(check: Callable) -> None:
    w, head = noise(4, 3, 1, 1), noise(5, 4 * 3 * 7)

    def draw(s: Any) -> list[relax.Var]:
        emit = s.bb.emit
        y = emit(op.nn.relu(emit(op.nn.conv2d(s.x, s.params["w"]))))
        flat = emit(op.reshape(y, (1, 84)))
        return [emit(op.matmul(flat, emit(op.permute_dims(s.params["head"], [1, 0]))))]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        return [F.relu(F.conv2d(x, f64(w))).flatten(1) @ f64(head).T]

    model = check((1, 3, 3, 7), {"w": w, "head": head}, draw, expected)
    assert operators(model).count("permute_dims") == 1 + 2
    columns = head.reshape(5, 4, 21).transpose(0, 2, 1).reshape(5, -1)
    np.testing.assert_array_equal(model.weights["head"], columns)


def test_residual_sums_concatenation_and_gates_run_channels_last(check: Callable) -> None:
    w, gate = noise(3, 3, 3, 3), noise(6, 6, 1, 1)

    def draw(s: Any) -> list[relax.Var]:
        emit, nn = s.bb.emit, op.nn
        y = emit(op.add(s.x, emit(nn.conv2d(s.x, s.params["w"], padding=1))))
        both = emit(op.concat([s.x, y], 1))
        squeezed = emit(op.mean(both, [2, 3], keepdims=True))
        opened = emit(op.sigmoid(emit(nn.conv2d(squeezed, s.params["gate"]))))
        return [emit(nn.softmax(emit(op.multiply(opened, both)), 1))]

    def expected(x: torch.Tensor) -> list[torch.Tensor]:
        y = torch.cat([x, x + F.conv2d(x, f64(w), padding=1)], 1)
        opened = torch.sigmoid(F.conv2d(y.mean((2, 3), keepdim=True), f64(gate)))
        return [F.softmax(opened * y, 1)]

    model = check((2, 3, 5, 4), {"w": w, "gate": gate}, draw, expected)
    assert operators(model).count("permute_dims") == 1 + 1 + 1, "in, the gate's weight, out"
    (linear,) = (b.value for b in model.main.body.blocks[0].bindings if "R.matmul(" in str(b.value))
    assert [int(n) for n in linear.args[0].ty.shape.values] == [2, 6]


def test_a_convolution_without_anything_else_keeps_a_bias_of_zeros(check: Callable) -> None:
    w, b = noise(3, 2, 3, 3), np.zeros(3, np.float32)

    def draw(s: Any) -> list[relax.Var]:
        return [biased(s, s.bb.emit(op.nn.conv2d(s.x, s.params["w"])), "b")]

    model = check((1, 2, 4, 4), {"w": w, "b": b}, draw, lambda x: [F.conv2d(x, f64(w))])
    assert "add" in operators(model)
    assert model.weights["b"].shape == (3,)
