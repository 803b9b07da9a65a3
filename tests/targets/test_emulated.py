"""Kernels on an emulated AArch64: a few of them here, all of them in the slow part of the other files."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T

from targets import emulated
from targets.emulated import lacking, run_emulated
from targets.errors import TargetError
from targets.kernels.amx import lower_tiles
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear import dense, pack_dense
from targets.kernels.linear_int8 import dense_int8, pack_int8
from targets.kernels.spaces import schedules
from targets.target import find

NAMES = ["aarch64", "aarch64-dotprod", "aarch64-i8mm"]

emulates = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))


def made(func, target):
    scheduled = lower_tiles(schedules(func, target, limit=1)[0].mod)
    return tvm.compile(scheduled, target=target.tvm()).mod


@emulates
@pytest.mark.parametrize("name", NAMES)
def test_products_of_codes_are_exact(name):
    target, rng = find(name), np.random.default_rng(0)
    k, n = 37, 21
    q = rng.integers(0, 256, (13, 40), dtype=np.uint8)
    w = rng.integers(-128, 128, (n, k), dtype=np.int8)
    q[0], w[0] = 255, -128
    packed, total = pack_int8(w, target.block)
    ones, zero = np.ones(13, np.float32), rng.integers(0, 256, 13).astype(np.int32)
    given = [q, ones, zero, packed, np.ones(n, np.float32), total]
    y = run_emulated(
        made(dense_int8((13,), k, n, target.block), target),
        [*given, np.full((13, n), np.nan, np.float32)],
    )[-1]
    wanted = (q[:, :k].astype(np.int64) - zero[:, None]) @ w.T.astype(np.int64)
    np.testing.assert_array_equal(y, wanted)


@emulates
def test_two_threads_and_a_fused_epilogue(close):
    target, rng = find("aarch64", 2), np.random.default_rng(0)
    x, w, bias = (rng.standard_normal(s).astype(np.float32) for s in ((2, 11, 19), (35, 19), (35,)))
    func = with_epilogue(dense((2, 11), 19, 35, target.block), bias=True, activation="relu")
    empty = np.full((2, 11, 35), np.nan, np.float32)
    *given, y = run_emulated(made(func, target), [x, pack_dense(w, target.block), bias, empty])
    close(y, np.maximum(x.astype(np.float64) @ w.T + bias, 0))
    np.testing.assert_array_equal(given[0], x)


@emulates
def test_what_goes_wrong_is_told():
    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")) -> None:
        for i in T.serial(5):
            with T.sblock("copy"):
                vi = T.axis.spatial(5, i)
                y[vi] = x[vi % 4]

    target = find("aarch64")
    lib = tvm.compile(main, target=target.tvm()).mod
    x = np.ones(4, np.float32)
    with pytest.raises(TargetError) as caught:
        run_emulated(lib, [x, x])
    assert "wrote beyond an array" in caught.value.got
    with pytest.raises(TargetError) as caught:
        run_emulated(lib, [x, np.ones(3, np.float32)])
    assert "it raised" in caught.value.got
    assert "shape" in caught.value.got


def test_absent_tools_are_named(monkeypatch):
    monkeypatch.setattr(emulated.shutil, "which", lambda name: None)
    said = lacking()
    assert said is not None
    assert "qemu-aarch64-static" in said
    assert "apt install" in said
    with pytest.raises(TargetError, match="cannot be emulated"):
        run_emulated(None, [])
