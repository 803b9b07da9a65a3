"""Convolutions as three: what they compute is the product of the factors, padding included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tvm import relax

from passes.errors import PassError
from passes.format_linear import format_linear
from passes.low_rank import conv_on
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from passes.tucker import Tucker, TuckerConfig, choices, form
from targets.kernels.window import Window
from targets.target import find

TARGET = find("x86-64-v3")
rng = np.random.default_rng(4)

WINDOWS = [
    Window(9, 8, 5, (3, 2), (1, 1), (1, 1, 1, 1), (1, 1)),
    Window(9, 8, 5, (3, 2), (2, 1), (0, 1, 2, 1), (1, 2)),
    Window(9, 8, 5, (3, 2), (1, 2), (0, 0, 0, 0), (2, 1)),
]


def site(outputs, window):
    return Linear("c", "c.w", "c.b", 72, window.features, outputs, window)


def drawn(sketch, outputs, window):
    w = {
        "c.w": rng.standard_normal((outputs, window.channels, *window.kernel)).astype(np.float32),
        "c.b": rng.standard_normal(outputs).astype(np.float32),
    }

    def draw(s):
        y = s.bb.emit(conv_on(s.x, s.params["c.w"], window))
        return [s.bb.emit(relax.op.add(y, s.params["c.b"]))]

    return sketch((2, window.height, window.width, window.channels), w, draw)


def solve(model, window, form):
    gram = Gram(window.features).add(rng.standard_normal((200, window.features)) + 0.5)
    weight = model.weights["c.w"]
    return solve_linear(Affine(weight.reshape(len(weight), -1), model.weights["c.b"]), gram, form)


def convolved(x, weight, bias, window):
    """The same in float64 by PyTorch."""
    top, left, bottom, right = window.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(weight.astype(np.float64)),
        torch.tensor(bias.astype(np.float64)), stride=window.strides, dilation=window.dilation,
    )  # fmt: skip
    return y.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_it_computes_the_effective_weight(sketch, execute, window):
    model = drawn(sketch, 7, window)
    solved = solve(model, window, Tucker(3, 4, (3, 2)))
    written, report = format_linear(model, site(7, window), solved, TARGET)
    x = rng.standard_normal((2, 9, 8, 5)).astype(np.float32)
    effective = solved.weight.reshape(7, 5, 3, 2)
    wanted = convolved(x.astype(np.float64), effective, solved.bias, window)
    (got,) = execute(written, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-6 * np.abs(wanted).max())
    assert set(written.weights) == {"c.b", "c.w.first", "c.w.core", "c.w.last"}
    assert "c.w" in model.weights
    assert report.rewrites[0].detail == "fp32 channels 3 in, 4 out"


def test_what_kernels_cost_is_known_before_it_is_solved(sketch):
    solved = solve(drawn(sketch, 7, WINDOWS[0]), WINDOWS[0], Tucker(3, 4, (3, 2)))
    shapes = {n: p.shape for n, p in solved.format.placeholder(7, 30).items()}
    assert shapes == {n: p.shape for n, p in solved.parts.items()}
    pruned = Tucker(16, 16, (3, 2)).placeholder(7, 12)
    assert pruned["core"].shape == (7, 2, 3, 2)


def test_factors_that_do_not_fit_are_refused(sketch):
    window = WINDOWS[0]
    model = drawn(sketch, 7, window)
    right = solve(model, window, Tucker(3, 4, (3, 2)))
    first, core, last = (right.parts[n] for n in ("first", "core", "last"))
    for parts in (
        {"first": first[:, :3], "core": core, "last": last},
        {"first": first, "core": core[..., :1], "last": last},
        {"first": first, "core": core[:2], "last": last},
        {"first": first, "core": core, "last": last[:6]},
    ):
        with pytest.raises(PassError, match="factors do not fit"):
            format_linear(model, site(7, window), replace(right, parts=parts), TARGET)
    with pytest.raises(PassError, match="factors do not fit"):
        format_linear(model, replace(site(7, window), window=None), right, TARGET)
    with pytest.raises(PassError, match="has no core"):
        format_linear(model, site(7, window), replace(right, parts={"first": first}), TARGET)


def test_channels_are_full_blocks_that_save_enough():
    window = Window(14, 14, 128, (3, 3), (1, 1), (1, 1, 1, 1))
    offers, refusals = choices(site(256, window), TARGET)
    assert [(o.rank_in, o.rank_out) for o in offers] == [(96, 192), (64, 128), (32, 64)]
    assert refusals == []
    assert [form(o.setting, TARGET) for o in offers] == offers


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "reason"),
    [
        (64, 64, (1, 1), "no taps"),
        (16, 16, (3, 3), "leave none out"),
        (512, 32, (3, 3), "leave none out"),
        (64, 64, (2, 1), "% of the products in three kernels"),
    ],
)
def test_channels_that_save_nothing_are_refused(channels, outputs, kernel, reason):
    window = Window(8, 8, channels, kernel)
    offers, refusals = choices(site(outputs, window), TARGET, TuckerConfig(shares=(0.8,)))
    assert offers == []
    assert [(r.site, r.op) for r in refusals] == [("c", "tucker 0.8")]
    assert reason in refusals[0].reason


def test_a_stride_leaves_the_first_layer_a_larger_share():
    config = TuckerConfig(shares=(0.5,))
    near, far = (Window(32, 32, 64, (3, 3), (s, s), (1, 1, 1, 1)) for s in (1, 4))
    assert choices(site(64, near), TARGET, config)[1] == []
    assert "three kernels" in choices(site(64, far), TARGET, config)[1][0].reason


def test_a_linear_layer_is_refused():
    offers, refusals = choices(Linear("fc", "fc.w", None, 3, 64, 64), TARGET)
    assert offers == []
    assert "no window" in refusals[0].reason
