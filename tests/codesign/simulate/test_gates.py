"""What a gate lets through, against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import te

from codesign.simulate.gates import GATE, gate_shape, gate_value, gated
from passes.formats import EXACT, FLOAT16, ROWS, Seen
from passes.sites import Linear
from targets.kernels.primfunc import dims
from targets.kernels.quantize import quantize_reference
from targets.kernels.quantize_static import quantize_static_reference
from targets.kernels.window import Window
from targets.target import host

SHAPE = (2, 3, 37)


@pytest.fixture(scope="module")
def run():
    x = te.placeholder(dims(*SHAPE), "float32", name="x")
    q = te.placeholder(dims(*SHAPE), "uint8", name="q")
    scale = te.placeholder(dims(*SHAPE[:2]), "float32", name="scale")
    zero = te.placeholder(dims(*SHAPE[:2]), "int32", name="zero")
    gate = te.placeholder(dims(GATE, SHAPE[-1]), "float32", name="gate")
    y = gated(x, q, scale, zero, gate)
    func = te.create_prim_func([x, q, scale, zero, gate, y])
    kernel = tvm.compile(tvm.IRModule({"main": func}), target=host().tvm())["main"]

    def apply(values: np.ndarray, seen: Seen) -> np.ndarray:
        rows = quantize_reference(values)
        out = tvm.runtime.tensor(np.empty(SHAPE, np.float32))
        arrays = (values, rows.q, rows.scale, rows.zero, gate_value(seen, (GATE, SHAPE[-1])))
        kernel(*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays), out)
        return out.numpy()

    return apply


def values():
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32) * 3
    x[0, 0, :4] = (0.0, 1e30, -1e30, 2.0**-130)
    return x


def test_an_open_gate_changes_nothing(run):
    np.testing.assert_array_equal(run(values(), EXACT), values())


def test_bfloat16_rounds_to_nearest_even(run):
    x = values()
    x[1, 0, :3] = (1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20)  # two ties, and one above a tie
    wanted = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(run(x, Seen(bits=16)), wanted)


def test_float16_rounds_to_nearest_even(run):
    x = values()
    ties = (1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20, -(2 + 2**-10))
    large = (65504, -65519.9, 65520, -65520)
    small = (
        2**-14,
        2**-14 - 2**-25,
        2**-24,
        -(2**-25),
        2**-25 + 2**-40,
        1.5 * 2**-24,
        -5e-7,
        1e-40,
    )
    x[1, 0, : len(ties)], x[1, 1, : len(large)], x[1, 2, : len(small)] = ties, large, small
    x[0, 1] *= np.float32(2) ** np.arange(-28, 9)
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(run(x, FLOAT16), wanted)
    with np.errstate(invalid="ignore"):
        assert np.isnan(run(np.full(SHAPE, np.nan, np.float32), FLOAT16)).all()


def test_rows_are_those_of_the_quantiser(run):
    x = values()
    np.testing.assert_array_equal(run(x, ROWS), quantize_reference(x).dequantized())


def test_static_codes_are_those_of_the_quantiser(run):
    rng = np.random.default_rng(1)
    x, channels = values(), SHAPE[-1]
    scale = rng.uniform(0.005, 0.1, channels).astype(np.float32)
    zero = rng.integers(0, 256, channels)
    codes = quantize_static_reference(x, scale, zero).astype(np.float32)
    seen = Seen(8, tuple(scale.tolist()), tuple(zero.tolist()))
    np.testing.assert_array_equal(run(x, seen), (codes - zero.astype(np.float32)) * scale)


def test_channels_that_are_gone_are_not_seen():
    seen = Seen(8, (0.5, 2.0), (3, 4)).among(np.array([3, 1]), 5)
    assert seen.scale == (1.0, 2.0, 1.0, 0.5, 1.0)
    assert seen.zero == (0, 4, 0, 3, 0)
    assert ROWS.among(np.array([0]), 5) == ROWS


def test_a_gate_has_a_column_for_each_channel():
    window = Window(8, 8, 6, (3, 3))
    assert gate_shape(Linear("fc", "fc.w", None, 10, 54, 8, window)) == (4, 6)
    assert gate_shape(Linear("fc", "fc.w", None, 10, 54, 8)) == (4, 54)
