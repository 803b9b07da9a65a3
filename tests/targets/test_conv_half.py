"""bfloat16 and float16 convolutions against PyTorch in float64 on rounded numbers: odd shapes, extremes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm

from targets.errors import TargetError
from targets.kernels.amx import lower_tiles
from targets.kernels.conv_bf16 import conv_bf16, pack_conv_bf16
from targets.kernels.conv_fp16 import chunks_of, conv_fp16, pack_conv_fp16
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_bf16 import bf16_bits, bf16_values
from targets.kernels.linear_fp16 import CHUNK, LARGEST, fp16_values
from targets.kernels.spaces import schedules, space_name
from targets.kernels.strip import strip_rows
from targets.kernels.window import Window
from targets.target import Target, find
from tests.targets.references import convolved

WINDOWS = [
    Window(7, 9, 8, (3, 3), padding=(1, 1, 1, 1)),
    Window(11, 6, 32, (3, 3), strides=(2, 2), padding=(1, 0, 1, 1)),
    Window(9, 13, 12, (1, 1), strides=(2, 2)),
    Window(12, 10, 6, (5, 3), padding=(2, 1, 2, 1), dilation=(1, 2)),
    Window(6, 17, 30, (2, 4)),
]
BF16 = (conv_bf16, pack_conv_bf16, bf16_bits, lambda x: bf16_values(bf16_bits(x)))
FP16 = (conv_fp16, pack_conv_fp16, lambda x: x.astype(np.float16), fp16_values)
KINDS = pytest.mark.parametrize("kind", [BF16, FP16], ids=["bf16", "fp16"])


def ids(window):
    return f"{window.kernel} by {window.strides}"


def arrays(batch, window, n, seed=0):
    """(image, OIHW weights), float32."""
    rng = np.random.default_rng(seed)
    shape = (batch, window.height, window.width, window.channels)
    w = rng.standard_normal((n, window.channels, *window.kernel))
    return rng.standard_normal(shape).astype(np.float32), w.astype(np.float32)


def near(y, x, w, window, kind):
    """As exact as sums in float32 are; in float16 as its documentation says."""
    rounded = kind[3]
    x, w = rounded(x), rounded(w)
    wanted, size = convolved(x, w, window), convolved(np.abs(x), np.abs(w), window)
    assert y.shape == wanted.shape
    assert not np.isnan(y).any(), "an output was not written"
    off, terms = np.abs(y - wanted), window.features
    if kind is BF16:
        assert (off <= 2.0**-23 * terms * size + 1e-38).all()
        return
    c = CHUNK * 2.0**-11
    bound = (c / (1 - c) + 2.0**-24 * terms) * size + 2.0**-25 * terms
    assert (off <= bound).all()
    assert off.mean() <= 0.1 * bound.mean()


@pytest.fixture(autouse=True)
def every_schedule_fits(caplog):
    yield
    said = [record.getMessage() for record in caplog.get_records("call")]
    assert not [message for message in said if "do not fit" in message]


@KINDS
@pytest.mark.parametrize("window", WINDOWS, ids=ids)
def test_products(compiled, window, kind):
    make, pack, stored, _ = kind
    target = find("host")
    x, w = arrays(2, window, 35)
    func = make(2, window, 35, target.block)
    assert space_name(func) == make.__name__
    (y,) = compiled(func, target)([stored(x), pack(w, window, target.block)])
    near(y, x, w, window, kind)


@KINDS
@pytest.mark.parametrize("batch", [1, 2])
def test_threads(run, batch, kind):
    """Of one image they share the strips' rows or the tiles, of two the images."""
    threaded = find("host", 2)
    make, pack, stored, _ = kind
    x, w = arrays(batch, WINDOWS[0], 20)
    func = make(batch, WINDOWS[0], 20, threaded.block)
    for (y,) in run(func, threaded, [stored(x), pack(w, WINDOWS[0], threaded.block)]):
        near(y, x, w, WINDOWS[0], kind)


@KINDS
@pytest.mark.parametrize("batch", [1, 2])
def test_strips_of_a_small_cache(run, target, batch, kind):
    make, pack, stored, _ = kind
    window = Window(12, 17, 20, (3, 3), padding=(1, 1, 1, 1))
    assert strip_rows(window, 2, 4 << 10) == 3
    x, w = arrays(batch, window, 19)
    func = make(batch, window, 19, target.block, 4 << 10)
    for (y,) in run(func, target, [stored(x), pack(w, window, target.block)]):
        near(y, x, w, window, kind)


@KINDS
def test_epilogue(run, target, kind):
    make, pack, stored, _ = kind
    window, n = WINDOWS[1], 24
    x, w = arrays(2, window, n)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(n).astype(np.float32)
    residual = rng.standard_normal((2, window.out_height, window.out_width, n)).astype(np.float32)
    func = with_epilogue(make(2, window, n, target.block), bias=True, residual=True)
    for (y,) in run(func, target, [stored(x), pack(w, window, target.block), bias, residual]):
        near(y - bias.astype(np.float64) - residual, x, w, window, kind)


@KINDS
def test_numbers_that_need_no_rounding_are_exact(compiled, kind):
    make, pack, stored, _ = kind
    target, window = find("host"), WINDOWS[1]
    rng = np.random.default_rng(3)
    x = rng.integers(-4, 5, (2, 11, 6, 32)).astype(np.float32)
    w = rng.integers(-4, 5, (40, 32, 3, 3)).astype(np.float32)
    x[1], w[5] = 0, 0
    kernel = compiled(make(2, window, 40, target.block), target)
    (y,) = kernel([stored(x), pack(w, window, target.block)])
    np.testing.assert_array_equal(y, convolved(x, w, window))


@KINDS
@pytest.mark.parametrize("scale", [900, 2**-10, 2**-17])
def test_large_and_small_numbers(compiled, kind, scale):
    make, pack, stored, _ = kind
    target, window = find("host"), WINDOWS[0]
    x, w = arrays(1, window, 33)
    x *= np.float32(scale)
    kernel = compiled(make(1, window, 33, target.block), target)
    near(kernel([stored(x), pack(w, window, target.block)])[0], x, w, window, kind)


def test_the_largest_float16_passes(compiled):
    target, window = find("host"), Window(3, 3, 2, (3, 3), padding=(1, 1, 1, 1))
    x, w = np.zeros((1, 3, 3, 2), np.float16), np.ones((16, 2, 3, 3), np.float32)
    x[0, 1, 1, 1] = -LARGEST
    kernel = compiled(conv_fp16(1, window, 16, target.block), target)
    (y,) = kernel([x, pack_conv_fp16(w, window, target.block)])
    np.testing.assert_array_equal(y, -LARGEST)


@KINDS
def test_packing_fills_up_channels(compiled, kind):
    make, pack, stored, _ = kind
    target = find("host")
    three, four = (Window(6, 6, c, (3, 3), padding=(1, 1, 1, 1)) for c in (3, 4))
    x, w = arrays(1, three, 16)
    wide = np.concatenate([x, np.full((1, 6, 6, 1), 77, np.float32)], axis=-1)
    kernel = compiled(make(1, four, 16, target.block), target)
    near(kernel([stored(wide), pack(w, four, target.block)])[0], x, w, three, kind)


def test_odd_channels_are_refused_in_bfloat16():
    with pytest.raises(TargetError, match="in pairs"):
        conv_bf16(1, Window(6, 6, 3, (3, 3)), 8, 16)


def test_chunks_are_whole_rows_of_small_kernels_and_parts_of_large_ones():
    assert chunks_of(Window(9, 9, 4, (3, 3))) == (3, 12)
    assert chunks_of(Window(9, 9, 8, (3, 3))) == (1, 24)
    assert chunks_of(Window(9, 9, 128, (3, 3))) == (1, 64)
    assert chunks_of(Window(9, 9, 16, (3, 3), dilation=(2, 2))) == (3, 16)


def test_each_target_gets_its_instruction():
    window = Window(14, 14, 64, (3, 3), padding=(1, 1, 1, 1))
    for name, make, instruction in (
        ("znver4", conv_bf16, "vdpbf16ps"),
        ("x86-64-v4", conv_bf16, "vfmadd"),
        ("sapphirerapids", conv_fp16, "vfmadd231ph"),
    ):
        target = find(name)
        sch = schedules(make(1, window, 64, target.block), target, limit=1)[0]
        code = tvm.compile(lower_tiles(sch.mod), target=target.tvm()).mod.inspect_source("asm")
        assert instruction in code


def test_the_loop_on_aarch64_is_multiply_adds_and_their_operands():
    arm = Target("arm", "cortex-a76", frozenset({"neon", "fullfp16"}), 128, 32)
    func = conv_fp16(1, Window(14, 14, 64, (3, 3), padding=(1, 1, 1, 1)), 64, arm.block)
    triple = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": arm.mcpu,
              "mattr": ["+neon", "+fullfp16"]}  # fmt: skip
    built = tvm.compile(schedules(func, arm)[0].mod, target=tvm.target.Target(triple))
    loops = re.split(r"^\.LBB\w+:", built.mod.inspect_source("asm"), flags=re.MULTILINE)
    inner = max(loops, key=lambda text: len(re.findall(r"fmla\s+v\d+\.8h", text))).split("b.ne")[0]
    assert len(re.findall(r"fmla\s+v\d+\.8h", inner)) % 14 == 0
    assert "fmla" in inner
    assert "sp" not in re.findall(r"\[(\w+)", inner)
    assert not re.search(r"\sst[rp]\s", inner)
