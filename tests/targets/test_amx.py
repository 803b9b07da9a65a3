"""Products on AMX: exact sums from every tile, what the lowering makes of a marked nest, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from targets.errors import TargetError
from targets.kernels.amx import configuration, lower_tiles
from targets.kernels.amx_nest import TILES, groups_at_once
from targets.kernels.blocks import bring, flow, new_schedule
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear_int8 import dense_int8, pack_int8
from targets.kernels.spaces import schedules
from targets.kernels.tile import Tile, open_tile
from targets.kernels.tile_amx import ROW_OPTIONS, amx_tiles, tile_product_amx
from targets.target import Target, find

CASES = [
    ((13,), 52, 50),  # fewer rows than a tile, 13 groups, outputs that no block divides
    ((2, 17), 64, 33),
    ((48,), 192, 64),
    ((3, 1, 32), 128, 32),
    ((31, 1), 72, 40),
]


def tiled(threads: int = 1) -> Target:
    """A target with tiles; the test is skipped where this machine has none."""
    target = find("sapphirerapids", threads)
    if target.missing():
        pytest.skip("this machine has no AMX")
    return target


def arguments(lead, k, n, nb=32, seed=0):
    """(inputs of the kernel with scales of 1, exact integer result)."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 256, (*lead, -(-k // 4) * 4)).astype(np.uint8)
    zero = rng.integers(0, 256, lead).astype(np.int32)
    w = rng.integers(-128, 128, (n, k)).astype(np.int8)
    packed, wsum = pack_int8(w, nb)
    ones = np.ones(lead, np.float32), np.ones(n, np.float32)
    wanted = (q[..., :k].astype(np.int64) - zero[..., None]) @ w.T.astype(np.int64)
    return [q, ones[0], zero, packed, ones[1], wsum], wanted


def scheduled(func, target, point):
    sch = new_schedule(func)
    tile_product_amx(sch, target, point)
    return sch


@pytest.mark.parametrize(("lead", "k", "n"), CASES)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_tile_is_exact(apply, lead, k, n, threads):
    target = tiled(threads)
    inputs, wanted = arguments(lead, k, n)
    func = dense_int8(lead, k, n, 32)
    points = amx_tiles(func, target)
    assert points
    for point in points:
        (y,) = apply(scheduled(func, target, point), func, target, inputs)
        np.testing.assert_array_equal(y, wanted)


def test_one_tile_of_outputs(apply):
    target = tiled()
    inputs, wanted = arguments((20,), 36, 21, nb=16)
    func = dense_int8((20,), 36, 21, 16)
    (y,) = apply(scheduled(func, target, Tile(16)), func, target, inputs)
    np.testing.assert_array_equal(y, wanted)


def test_the_most_extreme_codes(apply):
    target = tiled()
    lead, k, n = (33,), 256, 32  # 256 * 255 * 128 is below 2^24: float32 shows every unit
    func = dense_int8(lead, k, n, 32)
    sch = scheduled(func, target, Tile(16))
    for weight in (-128, 127):
        w = np.full((n, k), weight, np.int8)
        packed, wsum = pack_int8(w, 32)
        q = np.full((*lead, k), 255, np.uint8)
        zero = np.zeros(lead, np.int32)
        ones = np.ones(lead, np.float32), np.ones(n, np.float32)
        given = [q, ones[0], zero, packed, ones[1], wsum]
        (y,) = apply(sch, func, target, given)
        np.testing.assert_array_equal(y, np.float32(255 * weight * k))


def test_with_an_epilogue(apply, close):
    target = tiled()
    lead, k, n = (2, 24), 64, 50
    inputs, wanted = arguments(lead, k, n)
    rng = np.random.default_rng(1)
    bias, residual = (rng.standard_normal(s).astype(np.float32) for s in ((n,), (*lead, n)))
    func = with_epilogue(dense_int8(lead, k, n, 32), bias=True, residual=True)
    for point in amx_tiles(func, target):
        given = [*inputs, bias, residual]
        (y,) = apply(scheduled(func, target, point), func, target, given)
        close(y, wanted + bias + residual)


def test_a_marked_nest_is_right_without_the_lowering():
    inputs, wanted = arguments((2, 17), 64, 33)
    func = dense_int8((2, 17), 64, 33, 32)
    sch = scheduled(func, find("sapphirerapids"), Tile(16))
    kernel = tvm.compile(sch.mod, target=find("host").tvm())["main"]
    result = tvm.runtime.empty(wanted.shape, "float32")
    kernel(*(tvm.runtime.tensor(a) for a in inputs), result)
    y = result.numpy()
    np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize(("threads", "rows"), [(1, 16), (2, 32)])
def test_what_the_lowering_makes(threads, rows):
    target = find("sapphirerapids", threads)
    sch = scheduled(dense_int8((64,), 256, 96, 32), target, Tile(rows))
    lowered = lower_tiles(sch.mod)
    text, tiles = lowered.script(), rows // 16
    assert (
        text.count("tilezero") == text.count("tilestored64") == text.count("tdpbusd") == 2 * tiles
    )
    assert text.count("tileloadd64") == 2 + tiles
    code = tvm.compile(lowered, target=target.tvm()).mod.inspect_source("asm")
    assert code.count("ldtilecfg") == code.count("tilerelease") == 1
    assert "tdpbusd" in code


def test_other_functions_stay_as_they_are():
    target = find("x86-64-v4")
    mod = schedules(dense_int8((5,), 64, 32, 32), target)[0].mod
    assert lower_tiles(mod).same_as(mod)


def test_rows_beyond_the_end_are_refused():
    sch = new_schedule(dense_int8((20,), 64, 32, 32))
    anchor, inside = open_tile(
        sch, find("sapphirerapids"), Tile(16), ROW_OPTIONS, unroll=False, share=1
    )
    (*_, r, o, j), (g, i) = bring(sch, anchor, inside)
    sch.reorder(o, g, r, j, i)
    sch.annotate(o, TILES, 1)
    with pytest.raises(TargetError, match="not a product that tiles can do"):
        lower_tiles(sch.mod)


def test_what_is_no_product_is_refused():
    sch = new_schedule(dense_int8((16,), 64, 32, 32))
    sch.annotate(sch.get_loops(flow(sch)[-1].block)[0], TILES, 1)
    with pytest.raises(TargetError, match="not a product that tiles can do"):
        lower_tiles(sch.mod)


def test_where_there_is_nothing_to_gain():
    target = find("sapphirerapids")
    assert amx_tiles(dense_int8((128,), 384, 64, 32), target)
    assert not amx_tiles(dense_int8((1,), 384, 64, 32), target)  # a tile of one row
    assert not amx_tiles(dense_int8((128,), 4 * 17, 64, 32), target)  # of one group
    assert not amx_tiles(dense_int8((128,), 384, 64, 32), find("icelake-server"))


def test_groups_at_once():
    assert [groups_at_once(g) for g in (96, 16, 17, 26, 1)] == [16, 16, 1, 13, 1]


def test_the_configuration_is_that_of_the_manual():
    table = configuration(13)
    assert (table.dtype, table.shape) == (np.uint8, (64,))
    assert table[0] == 1
    assert not table[1:16].any()
    np.testing.assert_array_equal(
        table[16:48].view("<u2"), [64, 64, 64, 64, 52, 52, 64, 64] + 8 * [0]
    )
    np.testing.assert_array_equal(table[48:], [16, 16, 16, 16, 16, 16, 13, 13] + 8 * [0])
