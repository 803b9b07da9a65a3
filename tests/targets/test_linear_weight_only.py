"""Products on 8- and 4-bit weights against float64, at sizes that no tile, group or word divides."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.errors import TargetError
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_weight_only import Codes, pack_weight_only, weight_only
from targets.kernels.spaces import schedules, space_name
from targets.target import find

KINDS = [Codes(b, g, s) for (b, g), s in product([(8, 32), (4, 8)], [True, False])]


def coded(codes, n, k, seed=0):
    """(codes, scales, zero points, the weight that they stand for)."""
    rng = np.random.default_rng(seed)
    groups = codes.groups(k)
    code = rng.integers(codes.lowest, codes.highest + 1, (n, k))
    scale = rng.uniform(0.5, 2, (n, groups)).astype(np.float32)
    zero = None
    if not codes.symmetric:
        zero = rng.integers(codes.lowest, codes.highest + 1, (n, groups))
    points = np.full((n, groups), codes.middle) if zero is None else zero
    wide = (np.repeat(a, codes.group, axis=1)[:, :k] for a in (points, scale.astype(np.float64)))
    point, step = wide
    return code, scale, zero, (code - point) * step


def rows(lead, k, seed=1):
    return np.random.default_rng(seed).standard_normal((*lead, k)).astype(np.float32)


def arguments(codes, n, k, nb):
    code, scale, zero, weight = coded(codes, n, k)
    return pack_weight_only(codes, code, scale, zero, nb), weight


def within(got, x, weight, codes, largest_step=2.0):
    """Every error within the rounding of a sum of products with the whole range of codes."""
    error = np.abs(got - x.astype(np.float64) @ weight.T)
    span = largest_step * (codes.highest - codes.lowest)
    assert (error.max(axis=-1) <= 3e-7 * span * np.abs(x).astype(np.float64).sum(axis=-1)).all()


@pytest.mark.parametrize("codes", KINDS, ids=str)
def test_odd_sizes(compiled, target, codes):
    for lead, k, n in (((1,), 33, 70), ((2, 3), 65, 130)):
        packed, weight = arguments(codes, n, k, target.block)
        x = rows(lead, k)
        kernel = compiled(weight_only(lead, k, n, target.block, codes), target)
        within(kernel([x, *packed])[0], x, weight, codes)


@pytest.mark.parametrize("codes", [KINDS[0], KINDS[3]], ids=str)
def test_every_schedule(run, target, codes):
    k, n = 67, 6 * target.block - 3
    packed, weight = arguments(codes, n, k, target.block)
    x, func = rows((4,), k), weight_only((4,), k, n, target.block, codes)
    assert space_name(func) == "linear_weight_only"
    results = [y for (y,) in run(func, target, [x, *packed], every=True)]
    # cores that do not reorder instructions leave more registers to loads: one tile less
    assert len(results) >= (5 if target.in_order else 6)
    for y in results:
        within(y, x, weight, codes)


@pytest.mark.parametrize("codes", [KINDS[1], KINDS[2]], ids=str)
def test_with_threads_and_a_fused_epilogue(run, threaded, codes):
    k, n = 40, 4 * threaded.block + 1
    packed, weight = arguments(codes, n, k, threaded.block)
    x, residual = rows((2, 3), k), rows((2, 3), n, 2)
    bias = np.linspace(-2, 2, n, dtype=np.float32)
    func = weight_only((2, 3), k, n, threaded.block, codes)
    both = with_epilogue(func, bias=True, activation="relu", residual=True)
    for (y,) in run(both, threaded, [x, *packed, bias, residual]):
        wanted = np.maximum(x.astype(np.float64) @ weight.T + bias, 0) + residual
        assert np.abs(y - wanted).max() <= 2e-6 * np.abs(wanted).max()


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    lead=st.tuples(st.integers(1, 2), st.integers(1, 9)), k=st.integers(1, 50),
    n=st.integers(1, 70), kind=st.sampled_from(KINDS),
)  # fmt: skip
def test_any_size(compiled, lead, k, n, kind):
    target = find("host")
    packed, weight = arguments(kind, n, k, target.block)
    x = rows(lead, k)
    kernel = compiled(weight_only(lead, k, n, target.block, kind), target)
    within(kernel([x, *packed])[0], x, weight, kind)


@pytest.mark.parametrize("codes", KINDS, ids=str)
def test_zeros_and_the_most_extreme_codes(compiled, target, codes):
    n, k = 9, 17
    kernel = compiled(weight_only((3,), k, n, target.block, codes), target)
    (packed, _), x = arguments(codes, n, k, target.block), rows((3,), k)
    assert (kernel([0 * x, *packed])[0] == 0).all()
    scale, zero = np.full((n, codes.groups(k)), 0.5, np.float32), None
    for code, point in product((codes.lowest, codes.highest), repeat=2):
        if codes.symmetric and point == codes.highest:
            continue
        point = codes.middle if codes.symmetric else point
        zero = None if codes.symmetric else np.full(scale.shape, point)
        whole = np.full((n, k), code)
        (y,) = kernel([x, *pack_weight_only(codes, whole, scale, zero, target.block)])
        within(y, x, (whole - point) * 0.5, codes, 0.5)


def test_one_large_input_does_not_spoil_other_groups(compiled, target):
    codes, n, k = Codes(4, 8), 5, 40
    packed, weight = arguments(codes, n, k, target.block)
    x = rows((2,), k)
    x[:, 3] = 3e3
    kernel = compiled(weight_only((2,), k, n, target.block, codes), target)
    within(kernel([x, *packed])[0], x, weight, codes)


def test_what_a_weight_takes():
    n, k, nb = 64, 128, 32
    sizes = {}
    for bits in (8, 4):
        codes = Codes(bits, 64)
        code, scale, zero, _ = coded(codes, n, k)
        sizes[bits] = sum(a.nbytes for a in pack_weight_only(codes, code, scale, zero, nb))
    assert sizes == {8: n * k + n * 2 * 4, 4: n * k // 2 + n * 2 * 4}


@pytest.mark.parametrize(("bits", "group"), [(3, 32), (8, 0), (4, 12), (8, 7)])
def test_codes_that_are_not_made(bits, group):
    with pytest.raises(TargetError, match="codes") as caught:
        Codes(bits, group)
    assert "multiple of 8" in caught.value.allowed


def test_what_does_not_fit_is_not_packed():
    codes = Codes(4, 8)
    code, scale, _, _ = coded(codes, 5, 20)
    with pytest.raises(TargetError, match="codes out of range"):
        pack_weight_only(codes, code + 1, scale, None, 32)
    with pytest.raises(TargetError, match="zero points out of range"):
        pack_weight_only(Codes(4, 8, False), code, scale, np.full(scale.shape, 16), 32)
    for wrong, zero in ((scale[:, :1], None), (scale, np.zeros(scale.shape, int))):
        with pytest.raises(TargetError, match="do not fit"):
            pack_weight_only(codes, code, wrong, zero, 32)


def test_tiles_keep_rows_together_and_threads_busy():
    target = find("x86-64-v4", 2)
    func = weight_only((4,), 64, 8 * target.block, target.block, Codes(8, 32))
    assert len(schedules(func, target)) >= 6
