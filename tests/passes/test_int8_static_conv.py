"""Static int8 of convolutions: the graph computes what effective weights and seen inputs say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from codesign.kernels import kernels
from codesign.pipeline import compile_model
from codesign.simulate.site_rows import windows
from passes.channel_groups import ChannelGroups, by_groups
from passes.errors import PassError
from passes.format_linear import format_linear, format_linears
from passes.int8 import Int8Config
from passes.int8_static import Int8Static, Int8StaticConfig, choices, form
from passes.lower import lower
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.ranges import Codes
from passes.solve.site import Affine, solve_linear
from targets.kernels.linear_int8 import GROUP
from targets.kernels.window import Window
from targets.target import find

HOST, VNNI = find("host"), find("icelake-server")
rng = np.random.default_rng(12)


def conv_on(s, x, name, window):
    y = relax.op.nn.conv2d(
        x,
        s.params[f"{name}.w"],
        strides=window.strides,
        padding=window.padding,
        dilation=window.dilation,
        data_layout="NHWC",
        kernel_layout="OIHW",
        out_layout="NHWC",
    )
    return s.bb.emit(relax.op.add(s.bb.emit(y), s.params[f"{name}.b"]))


def weights_of(name, n, window):
    shape = (n, window.channels, *window.kernel)
    return {
        f"{name}.w": rng.standard_normal(shape).astype(np.float32),
        f"{name}.b": rng.standard_normal(n).astype(np.float32),
    }


def site_of(name, n, window):
    rows = window.out_height * window.out_width
    return Linear(name, f"{name}.w", f"{name}.b", rows, window.features, n, window)


def images(count, window):
    """Channels of their own ranges."""
    gain = np.geomspace(0.2, 5, window.channels)
    shape = (count, window.height, window.width, window.channels)
    return (rng.standard_normal(shape) * gain).astype(np.float32)


def solve(w, name, window, x, form):
    weight = w[f"{name}.w"]
    rows = np.concatenate([windows(one[None], window, i) for i, one in enumerate(x)])
    layer = Affine(weight.reshape(len(weight), -1), w[f"{name}.b"])
    return solve_linear(layer, Gram(window.features).add(rows), form)


def reference(x, solved, window):
    """The convolution in float64 on the image as its codes say it."""
    seen = solved.seen
    codes = Codes(np.array(seen.scale, np.float32), np.array(seen.zero, np.int32))
    weight = solved.weight.reshape(-1, window.channels, *window.kernel)
    return convolved(codes.of(x), weight, window) + solved.bias


def convolved(x, weight, window):
    image = torch.from_numpy(x.astype(np.float64).transpose(0, 3, 1, 2))
    top, left, bottom, right = window.padding
    padded = torch.nn.functional.pad(image, (left, right, top, bottom))
    weight = weight.astype(np.float64)
    y = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weight), stride=window.strides, dilation=window.dilation
    )
    return y.numpy().transpose(0, 2, 3, 1)


def run(model, x):
    lowered, executable = compile_model(model, HOST)
    tensors = [tvm.runtime.tensor(v) for v in (x, *lowered.weights.values())]
    return [t.numpy() for t in relax.VirtualMachine(executable, tvm.cpu())["main"](*tensors)]


def close(got, wanted):
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("window", "density"),
    [
        (Window(7, 9, 8, (3, 3), padding=(1, 1, 1, 1)), 1.0),
        (Window(7, 9, 8, (3, 3), (2, 1), (1, 0, 1, 1)), 0.4),
        (Window(6, 8, 6, (3, 2), padding=(0, 1, 0, 0)), 1.0),  # channels are filled up to 8
        (Window(9, 7, 12, (1, 1), (2, 2)), 1.0),
        (Window(9, 7, 12, (1, 1), (2, 2)), 0.5),
        (Window(8, 8, 8, (2, 2)), 0.5),
    ],
    ids=str,
)
def test_the_graph_computes_the_effective_convolution(sketch, window, density):
    n = 40
    w = weights_of("fc", n, window)
    x = images(40, window)
    given = Int8Static(density, HOST.block, taps=window.taps)
    solved = solve(w, "fc", window, x, given)
    shape = (2, window.height, window.width, window.channels)
    model = sketch(shape, w, lambda s: [conv_on(s, s.x, "fc", window)])
    written, _ = format_linear(model, site_of("fc", n, window), solved, HOST)
    (got,) = run(written, x[:2])
    close(got, reference(x[:2], solved, window))
    assert len(solved.seen.scale) == window.channels
    exact = solve(w, "fc", window, x, replace(given, density=1.0))
    assert (np.abs(got - reference(x[:2], exact, window)).max() > 1e-2) == (density < 1)


def test_sparsity_takes_four_channels_at_one_position():
    structure = ChannelGroups(0.4, 9, 32)
    weight, rows = rng.standard_normal((40, 8 * 9)), rng.standard_normal((300, 8 * 9))
    solved, mask = structure.prune(weight, rows.T @ rows)
    assert mask.shape == (2, 18)
    assert (mask.sum(axis=1) == structure.kept(72)).all()
    assert mask.shape == structure.empty(40, 72).shape
    shown = solved.reshape(40, 2, 4, 9) != 0
    kept = mask.reshape(2, 2, 1, 9).repeat(4, axis=2).repeat(32, axis=0)[:40]
    np.testing.assert_array_equal(shown, kept)
    # solved, not cut: what is left makes up for the rest
    target = rows @ weight.T
    cut = np.where(kept.reshape(40, -1), weight, 0)
    assert np.square(rows @ solved.T - target).sum() < np.square(rows @ cut.T - target).sum()
    with pytest.raises(PassError, match="no whole groups"):
        by_groups(6 * 9, 9)


def test_patterns_shared_by_four_channels(sketch):
    window, n = Window(7, 9, 16, (3, 3), padding=(1, 1, 1, 1)), 40
    w, x = weights_of("fc", n, window), images(40, window)
    given = Int8Static(0.5, HOST.block, taps=9, kernel=(3, 3))
    solved = solve(w, "fc", window, x, given)
    shown = (solved.weight.reshape(n, 4, 4, 9) != 0).any(axis=2)  # [n, four channels, position]
    mask = solved.mask.reshape(-1, 4, 9)
    assert mask.shape == given.structure.empty(n, 144).reshape(-1, 4, 9).shape
    assert set(mask.sum(axis=2).ravel()) == {0, 4}
    assert ((mask.sum(axis=2) == 4).sum(axis=1) == 2).all()
    assert mask[mask.any(axis=2)][:, 4].all(), "the centre is in every pattern"
    for o, row in enumerate(shown):
        assert not (row & ~mask[o // HOST.block]).any()
    model = sketch((2, 7, 9, 16), w, lambda s: [conv_on(s, s.x, "fc", window)])
    written, _ = format_linear(model, site_of("fc", n, window), solved, HOST)
    close(run(written, x[:2])[0], reference(x[:2], solved, window))
    assert "conv_sparse_int8_static" in str(kernels(lower(written, HOST))[-1].name)
    config = Int8StaticConfig(patterns=(1.0, 0.5), int8=Int8Config(densities=(1.0,)))
    wide = Window(14, 14, 64, (3, 3), padding=(1, 1, 1, 1))
    offers, refusals = choices(site_of("fc", 64, wide), VNNI, config)
    assert [(o.density, o.kernel) for o in offers] == [(1, ()), (1, (3, 3)), (0.5, (3, 3))]
    assert not refusals
    assert all(form(o.setting, VNNI) == o for o in offers)
    assert len({str(o) for o in offers}) == 3
    for channels, reason in ((62, "no whole groups of 4"), (12, "too few")):
        _, refusals = choices(site_of("fc", 64, wide.with_channels(channels)), VNNI, config)
        assert reason in refusals[-1].reason


def test_a_channel_a_hundred_times_larger_costs_little():
    """Channels share the factor with their weights, as in cross-layer equalisation."""
    window, n = Window(7, 9, 8, (3, 3), padding=(1, 1, 1, 1)), 40
    w = weights_of("fc", n, window)
    x = rng.standard_normal((40, 7, 9, 8)).astype(np.float32)
    x[..., 5] *= 100
    w["fc.w"][:, 5] /= 100
    solved = solve(w, "fc", window, x, Int8Static(1.0, HOST.block, taps=9))
    wanted = convolved(x, w["fc.w"], window) + w["fc.b"]
    got = reference(x, solved, window)
    assert np.square(got - wanted).sum() < 5e-4 * np.square(wanted).sum()
    assert max(solved.seen.scale) > 50 * min(solved.seen.scale)


def test_between_two_convolutions_only_codes_are_in_memory(sketch):
    first = Window(8, 8, 8, (3, 3), padding=(1, 1, 1, 1))
    second = Window(8, 8, 32, (3, 3), (2, 2), (1, 1, 1, 1))
    w = weights_of("a", 32, first) | weights_of("b", 24, second)
    x = images(30, first)
    a = solve(w, "a", first, x, Int8Static(1.0, HOST.block, taps=9))
    hidden = np.maximum(reference(x, a, first), 0).astype(np.float32)
    b = solve(w, "b", second, hidden, Int8Static(0.5, HOST.block, taps=9))

    def draw(s):
        return [conv_on(s, s.bb.emit(relax.op.nn.relu(conv_on(s, s.x, "a", first))), "b", second)]

    model = sketch((1, 8, 8, 8), w, draw)
    pairs = [(site_of("a", 32, first), a), (site_of("b", 24, second), b)]
    written, _ = format_linears(model, pairs, HOST)
    assert [k.name for k in kernels(lower(written, HOST))] == [
        "quantize_static",
        "conv_int8_static_add_relu_quantize_static",
        "conv_sparse_int8_static_add",
    ]
    (got,) = run(written, x[:1])
    wanted = reference(hidden[:1], b, second)
    # a value between two codes may fall either way
    assert np.abs(got - wanted).max() < 2e-2 * np.abs(wanted).max()
    assert set(b.seen.zero) == {0}


def test_offers_for_convolutions():
    window = Window(14, 14, 64, (3, 3), padding=(1, 1, 1, 1))
    config = Int8StaticConfig()
    offers, refusals = choices(site_of("fc", 64, window), VNNI, config)
    assert not refusals
    assert [o.density for o in offers] == list(config.int8.densities)
    for offer in offers:
        assert offer.taps == 9
        assert form(offer.setting, VNNI) == offer
    odd = window.with_channels(62)
    offers, refusals = choices(site_of("fc", 64, odd), VNNI, config)
    assert [o.density for o in offers] == [1.0]
    assert {r.reason for r in refusals} == {
        f"62 channels are no whole groups of {GROUP}, which stay or go together"
    }
    first = Window(32, 32, 3, (3, 3))
    offers, refusals = choices(site_of("fc", 64, first), VNNI, config)
    assert not offers
    assert "27 inputs are too few" in refusals[0].reason
