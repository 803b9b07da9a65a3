"""Products by USMMLA on an emulated processor: exact at the ends of the ranges, for every point of the space."""

from __future__ import annotations

import numpy as np
import pytest

from targets.emulated import lacking
from targets.kernels.conv_int8 import conv_int8, pack_conv_int8
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_int8 import pack_int8, static_int8, static_shift
from targets.kernels.spaces import schedules
from targets.kernels.tile_matrix import conv_tiles_matrix, matrix_rows, matrix_tiles
from targets.kernels.window import Window
from targets.target import find

emulates = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))
I8MM = find("aarch64-i8mm")


def codes(rng, rows, k, n):
    """uint8 [rows, k] and int8 [n, k] with the ends of their ranges among them."""
    q = rng.integers(0, 256, (rows, k), dtype=np.uint8)
    w = rng.integers(-128, 128, (n, k), dtype=np.int8)
    q[0], w[0], w[-1] = 255, -128, 127
    return q, w


def linear(rng, lead, k, n, to):
    """(function, inputs, exact result) of a layer with one zero point for each input."""
    q, w = codes(rng, int(np.prod(lead)), k, n)
    zero = rng.integers(0, 256, k).astype(np.int32)
    given = [
        q.reshape(*lead, k),
        pack_int8(w, to.block)[0],
        np.ones(n, np.float32),
        static_shift(w, zero),
    ]
    exact = (q.astype(np.int64) - zero) @ w.T.astype(np.int64)
    return static_int8(lead, k, n, to.block), given, exact.reshape(*lead, n)


@emulates
@pytest.mark.parametrize(
    ("lead", "k", "n"),
    [((29,), 48, 21), ((2, 13), 16, 8), pytest.param((3, 1, 7), 160, 40, marks=pytest.mark.slow)],
)
def test_every_point_is_exact(lead, k, n, apply):
    func, given, exact = linear(np.random.default_rng(k), lead, k, n, I8MM)
    points = len(matrix_tiles(func, I8MM))
    assert points > 0
    for sch in schedules(func, I8MM, limit=points):
        assert "usmmla" in str(sch.mod)
        (y,) = apply(sch, func, I8MM, given)
        np.testing.assert_array_equal(y, exact)


@emulates
def test_two_threads_and_a_fused_epilogue(apply):
    two = find("aarch64-i8mm", 2)
    rng = np.random.default_rng(1)
    func, given, exact = linear(rng, (17,), 32, 24, two)
    bias = rng.integers(-9, 9, 24).astype(np.float32)
    fused = with_epilogue(func, bias=True, activation="relu")
    (y,) = apply(schedules(fused, two, limit=1)[0], fused, two, [*given, bias])
    np.testing.assert_array_equal(y, np.maximum(exact + bias, 0))


@emulates
@pytest.mark.parametrize(
    "window",
    [
        Window(5, 7, 16, (3, 3), padding=(1, 1, 1, 1)),
        pytest.param(Window(9, 6, 16, (3, 2), strides=(2, 1)), marks=pytest.mark.slow),
    ],
)
def test_convolutions_are_exact(window, apply):
    rng, n, batch = np.random.default_rng(2), 11, 2
    q = rng.integers(0, 256, (batch, window.height, window.width, window.channels), dtype=np.uint8)
    w = rng.integers(-128, 128, (n, window.channels, *window.kernel), dtype=np.int8)
    q[0, :3], w[0] = 255, -128
    zero = rng.integers(0, 256, window.channels).astype(np.uint8)
    shift = static_shift(w.reshape(n, -1), np.repeat(zero, window.taps).astype(np.int32))
    given = [q, *([zero] if window.padded else []), pack_conv_int8(w, window, I8MM.block)]
    given += [np.ones(n, np.float32), shift]
    func = conv_int8(batch, window, n, I8MM.block)
    points = len(list(conv_tiles_matrix(func, I8MM)))
    assert points > 0
    exact = convolved(q.astype(np.int64) - zero, w.astype(np.int64), window)
    for sch in schedules(func, I8MM, limit=points):
        assert "usmmla" in str(sch.mod)
        (y,) = apply(sch, func, I8MM, given)
        np.testing.assert_array_equal(y, exact)


def convolved(x, w, window):
    """The definition of a convolution, of NHWC and OIHW integers."""
    top, left, bottom, right = window.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = np.zeros((len(x), window.out_height, window.out_width, len(w)), np.int64)
    for r, s in np.ndindex(*window.kernel):
        rows = x[:, r : r + (window.out_height - 1) * window.strides[0] + 1 : window.strides[0]]
        taps = rows[
            :, :, s : s + (window.out_width - 1) * window.strides[1] + 1 : window.strides[1]
        ]
        y += taps @ w[:, :, r, s].T
    return y


@pytest.mark.parametrize(
    ("name", "k", "rows"),
    [("aarch64-dotprod", 48, 29), ("aarch64-i8mm", 40, 29), ("aarch64-i8mm", 48, 1)],
)
def test_where_there_is_no_point(name, k, rows):
    """Without the instruction, for inputs that are no whole vectors, and for one row."""
    target = find(name)
    func = static_int8((rows,), k, 16, target.block)
    assert matrix_tiles(func, target) == []


def test_rows_of_tiles():
    assert (
        matrix_rows(128, 8, I8MM)[0] <= 4
    )  # LLVM schedules "generic" for a core that works in order
    assert set(matrix_rows(3, 8, I8MM)) == {2, 4}
