"""SDOT with what it leaves out added behind the loop: exact with that and without."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import tirx

from targets.emulated import lacking, run_emulated
from targets.kernels.linear import dense
from targets.kernels.linear_int8 import pack_int8, static_int8, static_shift
from targets.kernels.linear_sparse_int8 import pack_sparse_int8, static_sparse_int8
from targets.kernels.offsets import OFFSETS, ROWS, take_out_offsets
from targets.kernels.spaces import schedules
from targets.target import find

emulates = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))
DOTPROD = find("aarch64-dotprod")
RNG = np.random.default_rng(5)


def exact_case(kept, n=21, k=48, rows=13):
    """(function, inputs, exact result) of a layer, sparse if ``kept`` groups of inputs are."""
    nb = DOTPROD.block
    q = RNG.integers(0, 256, (rows, k), dtype=np.uint8)
    w = RNG.integers(-128, 128, (n, k), dtype=np.int8)
    q[0], w[0], w[-1] = 255, -128, 127
    if kept is None:
        func, packed = static_int8((rows,), k, n, nb), [pack_int8(w, nb)[0]]
    else:
        mask = np.zeros((-(-n // nb), k // 4), bool)
        for block in mask:
            block[RNG.permutation(k // 4)[:kept]] = True
        w *= np.repeat(np.repeat(mask, nb, 0)[:n], 4, 1).astype(np.int8)
        func = static_sparse_int8((rows,), k, n, nb, kept)
        packed = list(pack_sparse_int8(w, mask, nb)[:2])
    zero = RNG.integers(0, 256, k).astype(np.int32)
    given = [q, *packed, np.ones(n, np.float32), static_shift(w, zero)]
    return func, given, (q.astype(np.int64) - zero) @ w.T.astype(np.int64)


def marks(mod):
    return str(mod).count(OFFSETS + '"'), str(mod).count(ROWS + '"')


@emulates
@pytest.mark.parametrize("kept", [None, 5])
def test_marked_loops_are_right_either_way(kept):
    func, given, exact = exact_case(kept)
    (sch,) = schedules(func, DOTPROD, limit=1)
    assert marks(sch.mod) == (1, 1)
    done = take_out_offsets(sch.mod)
    assert marks(done)[0] == 0
    for mod in (sch.mod, done):
        built = tvm.compile(mod, target=DOTPROD.tvm()).mod
        y = run_emulated(built, [*given, np.full(exact.shape, np.nan, np.float32)])[-1]
        np.testing.assert_array_equal(y, exact)


@emulates
@pytest.mark.slow
@pytest.mark.parametrize("kept", [None, 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_point_is_exact(kept, threads, apply):
    target = DOTPROD.with_threads(threads)
    func, given, exact = exact_case(kept)
    for sch in schedules(func, target):
        (y,) = apply(sch, func, target, given)
        np.testing.assert_array_equal(y, exact)


def test_what_is_not_marked_stays():
    (sch,) = schedules(dense((13,), 16, 8, 8), DOTPROD, limit=1)
    done = take_out_offsets(sch.mod)
    assert isinstance(done["main"], tirx.PrimFunc)
    tvm.ir.assert_structural_equal(done["main"], sch.mod["main"])
