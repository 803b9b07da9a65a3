"""Convolutions as three: what they compute is the product of the factors, padding included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tvm import relax

from passes.errors import PassError
from passes.solve.tucker import Tucker2, tucker2
from passes.tucker import TuckerConfig, channel_ranks, factorize_convs
from targets.target import find

TARGET = find("x86-64-v3")
rng = np.random.default_rng(4)

CONVS = [
    {"strides": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1]},
    {"strides": [2, 1], "padding": [0, 1, 2, 1], "dilation": [1, 2]},
    {"strides": [1, 2], "padding": [0, 0, 0, 0], "dilation": [2, 1]},
]


def conv(s, attrs, groups=1):
    y = relax.op.nn.conv2d(
        s.x, s.params["c.w"], **attrs, groups=groups,
        data_layout="NHWC", kernel_layout="OIHW", out_layout="NHWC",
    )  # fmt: skip
    return s.bb.emit(relax.op.add(s.bb.emit(y), s.params["c.b"]))


def weights_of(o, c, kh, kw):
    return {
        "c.w": rng.standard_normal((o, c, kh, kw)).astype(np.float32),
        "c.b": rng.standard_normal(o).astype(np.float32),
    }


def convolved(x, weight, bias, attrs):
    """The same in float64 by PyTorch."""
    top, left, bottom, right = attrs["padding"]
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(weight.astype(np.float64)),
        torch.tensor(bias.astype(np.float64)),
        stride=tuple(attrs["strides"]), dilation=tuple(attrs["dilation"]),
    )  # fmt: skip
    return y.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("attrs", CONVS, ids=str)
def test_it_computes_the_product_of_the_factors(sketch, execute, attrs):
    w = weights_of(7, 5, 3, 2)
    model = sketch((2, 9, 8, 5), w, lambda s: [conv(s, attrs)])
    factors = tucker2(w["c.w"], 3, 4)
    bias = w["c.b"] + 1
    written, report = factorize_convs(model, [("c.w", factors)], {"c.b": bias})
    x = rng.standard_normal((2, 9, 8, 5)).astype(np.float32)
    wanted = convolved(x.astype(np.float64), factors.product, bias, attrs)
    (got,) = execute(written, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-6 * np.abs(wanted).max())
    assert set(written.weights) == {"c.w.first", "c.w.core", "c.w.second", "c.b"}
    assert "c.w" in model.weights
    assert report.rewrites[0].detail == "channels 3 in, 4 out"


def test_groups_and_other_layouts_are_refused(sketch):
    w = weights_of(6, 2, 3, 3)
    grouped = sketch((1, 5, 5, 4), w, lambda s: [conv(s, CONVS[0], groups=2)])
    with pytest.raises(PassError, match="canonical"):
        factorize_convs(grouped, [("c.w", tucker2(w["c.w"], 2, 3))])

    def first_channels(s):
        return [s.bb.emit(relax.op.nn.conv2d(s.x, s.params["c.w"]))]

    w = weights_of(6, 4, 3, 3)
    other = sketch((1, 4, 5, 5), {"c.w": w["c.w"]}, first_channels)
    with pytest.raises(PassError, match="canonical"):
        factorize_convs(other, [("c.w", tucker2(w["c.w"], 2, 3))])


def test_factors_of_another_shape_are_refused(sketch):
    w = weights_of(6, 4, 3, 3)
    model = sketch((1, 5, 5, 4), w, lambda s: [conv(s, CONVS[0])])
    right = tucker2(w["c.w"], 2, 3)
    for wrong in (
        right._replace(first=right.first[:, :3]),
        right._replace(core=right.core[..., :2]),
        right._replace(last=right.last.astype(np.float64)),
        Tucker2(right.first, right.core[:2], right.last),
    ):
        with pytest.raises(PassError, match="factors"):
            factorize_convs(model, [("c.w", wrong)])
    with pytest.raises(PassError, match="factors"):
        factorize_convs(model, [("c.b", right)])


def test_channels_are_full_blocks_that_save_enough():
    offers, reasons = channel_ranks(256, 128, 9, TARGET)
    assert offers == [(96, 192), (80, 160), (64, 128), (48, 96), (32, 64)]
    assert reasons == []


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((64, 64, 1), "linear layer"), ((16, 16, 9), "leave none out"), ((32, 512, 9), "none out")],
)
def test_channels_that_save_nothing_are_refused(shape, reason):
    offers, reasons = channel_ranks(*shape, TARGET, TuckerConfig(shares=(0.9, 0.8)))
    assert offers == []
    assert len(reasons) == 2
    assert all(reason in r for r in reasons)


def test_three_kernels_must_save_something():
    offers, reasons = channel_ranks(64, 64, 2, TARGET, TuckerConfig(shares=(0.75,)))
    assert offers == []
    assert "131% of the products in three kernels" in reasons[0]
