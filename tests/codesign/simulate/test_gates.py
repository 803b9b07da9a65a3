"""What a gate lets through, against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import te

from codesign.simulate.gates import GATE, gate_value, gated
from passes.formats import EXACT, ROWS, Seen
from targets.kernels.primfunc import dims
from targets.kernels.quantize import quantize_reference
from targets.kernels.quantize_static import quantize_static_reference
from targets.target import host

SHAPE = (2, 3, 37)


@pytest.fixture(scope="module")
def run():
    x = te.placeholder(dims(*SHAPE), "float32", name="x")
    q = te.placeholder(dims(*SHAPE), "uint8", name="q")
    scale = te.placeholder(dims(*SHAPE[:2]), "float32", name="scale")
    zero = te.placeholder(dims(*SHAPE[:2]), "int32", name="zero")
    gate = te.placeholder(dims(GATE), "float32", name="gate")
    y = gated(x, q, scale, zero, gate)
    func = te.create_prim_func([x, q, scale, zero, gate, y])
    kernel = tvm.compile(tvm.IRModule({"main": func}), target=host().tvm())["main"]

    def apply(values: np.ndarray, seen: Seen) -> np.ndarray:
        rows = quantize_reference(values)
        out = tvm.runtime.tensor(np.empty(SHAPE, np.float32))
        arrays = (values, rows.q, rows.scale, rows.zero, gate_value(seen))
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


def test_rows_are_those_of_the_quantiser(run):
    x = values()
    np.testing.assert_array_equal(run(x, ROWS), quantize_reference(x).dequantized())


@pytest.mark.parametrize(("scale", "zero"), [(0.03, 128), (0.02, 0), (0.5, 255)])
def test_a_fixed_scale_clips_and_rounds_to_even(run, scale, zero):
    x = values()
    x[1, 1, :3] = np.float32(scale) * np.array([0.5, 1.5, 2.5], np.float32)
    inverse = np.float32(1.0 / scale)
    codes = np.clip(np.rint(x * inverse) + zero, 0, 255)
    wanted = (codes - zero).astype(np.float32) * np.float32(scale)
    np.testing.assert_array_equal(run(x, Seen(8, scale, zero)), wanted)
    kernel = quantize_static_reference(x, scale, zero).astype(np.float32) - zero
    np.testing.assert_array_equal(wanted, kernel * np.float32(scale))
