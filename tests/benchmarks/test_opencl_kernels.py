"""The check of GPU kernels tells right from wrong, and says what was not as on a phone."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.opencl_kernels import (
    Row,
    by_magnitude,
    check_kernel,
    deviation,
    draw,
    main,
    on_processor,
    report,
)
from targets.kernels.linear import dense
from targets.kernels.linear_fp16 import dense_fp16
from targets.kernels.linear_sparse import sparse
from targets.pocl import has_fp16, lacking
from targets.target import find


def needs_opencl():
    if (absent := lacking()) is not None:
        pytest.skip(absent)


def test_a_kernel_is_run_and_compared():
    needs_opencl()
    row = check_kernel("linear", sparse((2, 9), 24, 30, 8, 5), find("mali"), calls=3)
    assert row.right
    assert (row.kernel, row.calls, row.starts) == ("linear", 3, 1)


def test_float16_without_a_device_for_it_is_said():
    needs_opencl()
    row = check_kernel("linear_fp16", dense_fp16((2, 9), 64, 30, 8), find("mali"))
    assert row.right
    assert row.note == ("" if has_fp16() else "float16 as float32")


def test_wrong_kernels_are_counted(capsys):
    rows = [Row("a", 1, 1, 1, "64", 0, 1e-7), Row("b", 1, 1, 1, "64", 0, 0.5)]
    assert report("model", iter(rows)) == 1
    text = capsys.readouterr().out
    assert "model: 1 of 2 kernels right, largest relative error 5.0e-01" in text
    assert "WRONG" in text


def test_the_processor_computes_the_kernel_as_it_is():
    func = dense((3,), 10, 8, 8)
    x, w = inputs = draw(func)
    wanted = x.astype(np.float64) @ w[0].astype(np.float64)
    np.testing.assert_allclose(on_processor(func, inputs)[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_number_where_there_is_none_is_the_largest_error():
    assert deviation(np.array([1.0, np.nan]), np.array([1.0, 2.0])) == np.inf
    assert deviation(np.array([1.0, np.nan]), np.array([1.0, np.nan])) == 0
    assert deviation(np.array([3.0]), np.array([4.0])) == 0.25


def test_inputs_of_largest_norm_are_kept():
    weight = np.zeros((10, 4), np.float32)
    weight[:8, 1], weight[8:, 3] = 5, 7
    mask = by_magnitude(weight, 8, 0.25)
    np.testing.assert_array_equal(mask, [[0, 1, 0, 0], [0, 0, 0, 1]])


@pytest.mark.slow
def test_every_kernel_of_minilm_is_right_on_both_families(capsys):
    needs_opencl()
    assert main(["--models", "minilm", "--formats", "fp32"]) == 0
    assert capsys.readouterr().out.count("9 of 9 kernels right") == 2
