"""The loops that measure the machine do all the work that they are credited with."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from targets.errors import TargetError
from targets.kernels.peak import CHAINS, fma_peak, vnni_peak
from targets.target import find, host


@pytest.mark.parametrize("threads", [1, 2])
def test_fma_loop_computes_all_it_claims(threads):
    target = host(threads)
    func, operations = fma_peak(target, 5)
    assert operations == 2 * 5 * CHAINS * target.lanes * threads
    a, b = np.full(target.lanes, 0.5, np.float32), np.ones(target.lanes, np.float32)
    y = tvm.runtime.tensor(np.zeros((threads, CHAINS, target.lanes), np.float32))
    kernel = tvm.compile(func, target=target.tvm())["main"]
    kernel(tvm.runtime.tensor(a), tvm.runtime.tensor(b), y)
    np.testing.assert_array_equal(y.numpy(), 2 - 0.5**4)


@pytest.mark.skipif(not host().has_vnni, reason="no VNNI here")
def test_vnni_loop_computes_all_it_claims():
    target = host()
    func, operations = vnni_peak(target, 5)
    assert operations == 8 * 5 * CHAINS * target.lanes
    a = np.full(4 * target.lanes, 3, np.int8)
    y = tvm.runtime.tensor(np.zeros((1, CHAINS, target.lanes), np.int32))
    kernel = tvm.compile(func, target=target.tvm())["main"]
    kernel(tvm.runtime.tensor(a), tvm.runtime.tensor(a), y)
    np.testing.assert_array_equal(y.numpy(), 5 * 4 * 9)


def test_without_vnni_there_is_no_such_loop():
    with pytest.raises(TargetError):
        vnni_peak(find("x86-64-v3"), 5)
