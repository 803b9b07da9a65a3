"""Quantised models run on their integers: kernels compute what codes, scales and zero points say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from codesign.kernels import kernels
from codesign.pipeline import compile_model
from passes.integers import IntegersConfig, use_integers
from passes.lower import lower
from targets.target import find

HOST, VNNI, PLAIN = find("host"), find("icelake-server"), find("skylake-avx512")
rng = np.random.default_rng(21)

STEP, ZERO = 0.031, {"uint8": 97, "int8": -31}
"""Of the inputs: not symmetric."""
NEXT, SYMMETRIC = 0.27, {"uint8": 128, "int8": 0}
"""Of what comes out: symmetric."""


def number(value, dtype):
    return relax.const(np.array(value, dtype), dtype)


def quantised(s, x, step, zero, dtype):
    numbers = number(step, "float32"), number(zero, dtype)
    return s.bb.emit(relax.op.quantize(x, *numbers, -1, dtype))


def numbers_of(s, q, step, zero):
    dtype = str(q.ty.dtype)
    return s.bb.emit(
        relax.op.dequantize(q, number(step, "float32"), number(zero, dtype), -1, "float32")
    )


def coded(s, name):
    """The weight of a layer from its codes."""
    scale = s.params[f"{name}.s"]
    return s.bb.emit(
        relax.op.dequantize(s.params[f"{name}.q"], scale, number(0, "int8"), 0, "float32")
    )


def linear(s, x, name):
    turned = s.bb.emit(relax.op.permute_dims(coded(s, name), [1, 0]))
    return s.bb.emit(relax.op.add(s.bb.emit(relax.op.matmul(x, turned)), s.params[f"{name}.b"]))


def conv(s, x, name, groups=1, **window):
    layouts = {"data_layout": "NHWC", "kernel_layout": "OIHW", "out_layout": "NHWC"}
    y = relax.op.nn.conv2d(x, coded(s, name), groups=groups, **window, **layouts)
    return s.bb.emit(relax.op.add(s.bb.emit(y), s.params[f"{name}.b"]))


def weights_of(name, *shape, per_channel=True):
    codes = rng.integers(-128, 128, shape, np.int8)
    scale = rng.uniform(0.002, 0.02, shape[0] if per_channel else ()).astype(np.float32)
    bias = rng.standard_normal(shape[0]).astype(np.float32)
    return {f"{name}.q": codes, f"{name}.s": scale, f"{name}.b": bias}


def value(w, name):
    scale = np.broadcast_to(w[f"{name}.s"], len(w[f"{name}.q"])).astype(np.float64)
    return w[f"{name}.q"] * scale.reshape(-1, *[1] * (w[f"{name}.q"].ndim - 1))


def seen(x, step, zero, dtype):
    """x as its codes say it, in float64."""
    low = {"uint8": 0, "int8": -128}[dtype]
    codes = np.clip(np.rint(x.astype(np.float64) / np.float32(step)) + zero, low, low + 255)
    return (codes - zero) * np.float64(np.float32(step))


def run(model, x, target=HOST):
    lowered, executable = compile_model(model, target)
    tensors = [tvm.runtime.tensor(v) for v in (x, *lowered.weights.values())]
    return [t.numpy() for t in relax.VirtualMachine(executable, tvm.cpu())["main"](*tensors)]


def within_a_step(got, wanted, step):
    """Few differ, by a step: a value between two codes may fall either way."""
    apart = np.abs(got - wanted) / step
    assert apart.max() < 1.01
    assert (apart > 0.01).mean() < 0.01


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("shape", "n", "per_channel"), [((2, 5, 27), 37, True), ((3, 48), 33, False)]
)
def test_a_linear_layer_between_codes(sketch, dtype, shape, n, per_channel):
    w = weights_of("fc", n, shape[-1], per_channel=per_channel)
    zero, symmetric = ZERO[dtype], SYMMETRIC[dtype]

    def draw(s):
        x = numbers_of(s, quantised(s, s.x, STEP, zero, dtype), STEP, zero)
        y = s.bb.emit(relax.op.nn.relu(linear(s, x, "fc")))
        return [numbers_of(s, quantised(s, y, NEXT, symmetric, dtype), NEXT, symmetric)]

    model = sketch(shape, w, draw)
    x = rng.uniform(-4, 6, shape).astype(np.float32)
    product = seen(x, STEP, zero, dtype) @ value(w, "fc").T + w["fc.b"]
    wanted = seen(np.maximum(product, 0), NEXT, symmetric, dtype)
    assert len(np.unique(wanted)) > 20
    within_a_step(run(model, x)[0], wanted, NEXT)
    names = [k.name for k in kernels(lower(model, VNNI))]
    padded = ["pad_groups"] if shape[-1] % 4 else []
    last = "linear_int8_static_add_relu_quantize_static_dequantize"
    assert names == ["quantize_static", *padded, last]
    done, report = use_integers(model, VNNI)
    assert [(c.site, c.detail) for c in report.rewrites] == [("fc.q", "static int8")]
    assert "fc.q" not in done.weights, "the codes are packed, not kept twice"


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_convolutions_with_a_residual_sum_of_codes(sketch, dtype):
    """Zero padding is the zero point; both readers of the codes get them as they are."""
    w = weights_of("a", 6, 6, 3, 3) | weights_of("b", 10, 6, 3, 2)
    zero, symmetric = ZERO[dtype], SYMMETRIC[dtype]
    same, strided = {"padding": [1, 1, 1, 1]}, {"strides": [2, 1], "padding": [1, 0, 0, 1]}

    def draw(s):
        x = numbers_of(s, quantised(s, s.x, STEP, zero, dtype), STEP, zero)
        total = s.bb.emit(relax.op.add(conv(s, x, "a", **same), x))
        q = quantised(s, total, NEXT, symmetric, dtype)
        return [conv(s, numbers_of(s, q, NEXT, symmetric), "b", **strided)]

    model = sketch((2, 7, 9, 6), w, draw)
    x = rng.uniform(-4, 6, (2, 7, 9, 6)).astype(np.float32)
    image = seen(x, STEP, zero, dtype)
    first = convolved(image, value(w, "a"), (1, 1, 1, 1), (1, 1)) + w["a.b"] + image
    middle = seen(first, NEXT, symmetric, dtype)
    wanted = convolved(middle, value(w, "b"), (1, 0, 0, 1), (2, 1)) + w["b.b"]
    (got,) = run(model, x)
    # what a code of the middle that fell elsewhere changes
    one = NEXT * np.abs(value(w, "b")).max()
    assert np.abs(got - wanted).max() < 2 * one
    assert (np.abs(got - wanted) > 1e-5 * np.abs(wanted).max()).mean() < 0.05
    names = [k.name for k in kernels(lower(model, VNNI))]
    assert names == [
        *("quantize_static", "pad_groups"),
        *("conv_int8_static_add_dequantize_add_quantize_static", "conv_int8_static_add"),
    ]


def convolved(image, weight, padding, strides):
    top, left, bottom, right = padding
    x = torch.from_numpy(image.transpose(0, 3, 1, 2))
    x = torch.nn.functional.pad(x, (left, right, top, bottom))
    return (
        torch.nn.functional.conv2d(x, torch.from_numpy(weight), stride=strides)
        .numpy()
        .transpose(0, 2, 3, 1)
    )


def dynamic(s, name):
    """What DynamicQuantizeLinear and MatMulInteger become, with 3 as the zero point at hand."""
    point = s.bb.emit(relax.op.astype(s.bb.emit(relax.op.max(s.x)), "uint8"))
    q = s.bb.emit(relax.op.quantize(s.x, number(STEP, "float32"), point, 0, "uint8"))
    wide = [s.bb.emit(relax.op.astype(v, "int32")) for v in (q, point)]
    inputs = s.bb.emit(relax.op.subtract(*wide))
    product = s.bb.emit(relax.op.matmul(inputs, s.params[name], out_dtype="int32"))
    return s.bb.emit(relax.op.astype(product, "float32"))


def test_products_of_integers_with_a_zero_point_at_hand(sketch):
    w = {"w": rng.integers(-128, 128, (27, 37)).astype(np.int32)}
    model = sketch((2, 5, 27), w, lambda s: [dynamic(s, "w")])
    x = rng.uniform(0, 3.9, (2, 5, 27)).astype(np.float32)
    codes = np.clip(np.rint(x / np.float32(STEP)) + int(x.max()), 0, 255) - int(x.max())
    np.testing.assert_array_equal(run(model, x)[0], codes @ w["w"])
    _, report = use_integers(model, VNNI)
    assert [c.detail for c in report.rewrites] == ["dynamic int8"]
    assert "linear_int8" in [k.name for k in kernels(lower(model, VNNI))]
    wide = sketch((2, 27), {"w": w["w"] * 2}, lambda s: [dynamic(s, "w")])
    _, report = use_integers(wide, VNNI)
    assert not report.modified
    assert "wider than int8" in report.refusals[0].reason


def refusals(model, target=VNNI, config=None):
    same, report = use_integers(model, target, config)
    assert same is model
    return [r.reason for r in report.refusals]


def test_refusals(sketch):
    w = weights_of("fc", 8, 16)
    coded_input = lambda s: numbers_of(s, quantised(s, s.x, STEP, 3, "int8"), STEP, 3)  # noqa: E731
    model = sketch((2, 16), w, lambda s: [linear(s, coded_input(s), "fc")])
    assert "no instruction for int8" in refusals(model, PLAIN)[0]
    assert use_integers(model, PLAIN, IntegersConfig(needs_dot_product=False))[1].modified
    x = rng.uniform(-4, 4, (2, 16)).astype(np.float32)
    wanted = seen(x, STEP, 3, "int8") @ value(w, "fc").T + w["fc.b"]
    np.testing.assert_allclose(run(model, x, find("x86-64-v3"))[0], wanted, rtol=1e-4, atol=1e-4)
    assert refusals(sketch((2, 16), w, lambda s: [linear(s, s.x, "fc")])) == [
        "its inputs are no codes"
    ]

    def read_elsewhere(s):
        q = quantised(s, s.x, STEP, 3, "int8")
        return [linear(s, numbers_of(s, q, STEP, 3), "fc"), q]

    assert "read as they are elsewhere" in refusals(sketch((2, 16), w, read_elsewhere))[0]
    image = weights_of("fc", 8, 2, 3, 3)

    def grouped(s):
        return [conv(s, coded_input(s), "fc", groups=2)]

    assert "in 2 groups" in refusals(sketch((1, 5, 5, 4), image, grouped))[0]
    unsigned = w | {"fc.q": (w["fc.q"].astype(np.int32) + 128).astype(np.uint8)}

    def asymmetric(s):
        zero, scale = number(20, "uint8"), s.params["fc.s"]
        weight = s.bb.emit(relax.op.dequantize(s.params["fc.q"], scale, zero, 0, "float32"))
        turned = s.bb.emit(relax.op.permute_dims(weight, [1, 0]))
        return [s.bb.emit(relax.op.matmul(coded_input(s), turned))]

    assert "wider than int8" in refusals(sketch((2, 16), unsigned, asymmetric))[0]


def test_other_models_come_back_as_they_are(sketch):
    w = {"fc.w": rng.standard_normal((8, 16)).astype(np.float32)}
    model = sketch((2, 16), w, lambda s: [s.linear(s.x, "fc")])
    same, report = use_integers(model, VNNI)
    assert same is model
    assert not report.modified
    assert not report.refusals
