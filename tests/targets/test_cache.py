"""Strips and what passes them by follow the second-level cache of the target."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.catalog import catalog_targets
from targets.errors import TargetError
from targets.kernels.blocks import flow, new_schedule
from targets.kernels.cache import MOST_STRIP, passing_bytes, strip_bytes
from targets.kernels.conv import conv
from targets.kernels.conv_bf16 import conv_bf16
from targets.kernels.conv_fp16 import conv_fp16
from targets.kernels.conv_int8 import conv_int8
from targets.kernels.conv_pattern import conv_pattern
from targets.kernels.conv_sparse import conv_sparse
from targets.kernels.conv_sparse_int8 import conv_sparse_int8
from targets.kernels.linear import dense
from targets.kernels.linear_bf16 import dense_bf16
from targets.kernels.linear_int8 import static_int8
from targets.kernels.linear_sparse import sparse
from targets.kernels.linear_sparse_int8 import sparse_int8
from targets.kernels.operands import operand_bytes
from targets.kernels.strip import pitch, rows_in, strip_rows
from targets.kernels.tile import tiles
from targets.kernels.tile_conv import conv_tiles
from targets.kernels.window import Window
from targets.target import KNOWN, PLATFORMS, UNKNOWN_L2, find

WINDOW = Window(56, 56, 64, (3, 3), padding=(1, 1, 1, 1))

FORMATS = {
    "float32": (4, lambda strip: conv(2, WINDOW, 40, 8, strip)),
    "bfloat16": (2, lambda strip: conv_bf16(2, WINDOW, 40, 8, strip)),
    "float16": (2, lambda strip: conv_fp16(2, WINDOW, 40, 8, strip)),
    "int8": (1, lambda strip: conv_int8(2, WINDOW, 40, 8, strip)),
    "sparse": (4, lambda strip: conv_sparse(2, WINDOW, 40, 8, 50, strip)),
    "sparse int8": (1, lambda strip: conv_sparse_int8(2, WINDOW, 40, 8, 20, strip)),
    "pattern": (4, lambda strip: conv_pattern(2, WINDOW, 40, 9, 6, 4, strip)),
}


def with_l2(kib, name="aarch64-dotprod"):
    return replace(find(name), l2_bytes=kib << 10)


def staged(func):
    """(strips of an image, numbers of one) that a kernel makes first."""
    _, strips, *numbers = (int(d) for d in func.body.block.alloc_buffers[0].shape)
    size = 1
    for n in numbers:
        size *= n
    return strips, size


def test_no_target_plans_with_more_than_it_has():
    for target in {**KNOWN, **PLATFORMS, **catalog_targets()}.values():
        if target.gpu is None:
            assert 0 < strip_bytes(target) <= MOST_STRIP
            assert 0 < strip_bytes(target) + passing_bytes(target) < target.l2_bytes


def test_where_strips_were_measured_they_are_as_large_as_was_best():
    assert find("znver5").l2_bytes == 1 << 20
    assert find("sapphirerapids").l2_bytes == 2 << 20
    assert strip_bytes(find("znver5")) == strip_bytes(find("sapphirerapids")) == MOST_STRIP
    assert passing_bytes(find("sapphirerapids")) // 1000 in range(1200, 2300)


def test_a_smaller_cache_gets_less_and_an_unknown_one_what_is_assumed():
    sizes = [strip_bytes(with_l2(kib)) for kib in (64, 128, 256, 512, 1024)]
    assert sizes == [kib * 576 for kib in (64, 128, 256, 512, 1024)]
    assert strip_bytes(find("android-arm64")) == UNKNOWN_L2 * 9 // 16
    assert (
        strip_bytes(with_l2(64, "adreno")) == MOST_STRIP
    )  # made in memory, by a kernel of its own


@pytest.mark.parametrize("name", FORMATS)
def test_strips_of_every_format_fit_their_share(name):
    size, make = FORMATS[name]
    counts = []
    for kib in (64, 256, 1024, 8192):
        strips, numbers = staged(make(strip_bytes(with_l2(kib))))
        # a row more than its windows see, and no fewer than two rows of outputs
        bound = strip_bytes(with_l2(kib)) + size * 2 * pitch(WINDOW)
        assert numbers * size <= max(bound, size * 6 * pitch(WINDOW))
        counts.append(strips)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    channels=st.integers(1, 600),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pad=st.integers(0, 3),
    item=st.sampled_from([1, 2, 4]),
    kib=st.integers(16, 4096),
)
def test_rows_of_any_strip(size, channels, kernel, strides, pad, item, kib):
    try:
        window = Window(*size, channels, kernel, strides, (pad,) * 4)
    except TargetError:
        return
    most = strip_bytes(with_l2(kib))
    rows = strip_rows(window, item, most)
    divisors = [d for d in range(1, window.out_height + 1) if window.out_height % d == 0]
    fitting = [d for d in divisors if rows_in(window, d) * pitch(window) * item <= most]
    assert rows == fitting[-1] if fitting else rows in divisors


def test_weights_pass_by_one_tile_only_where_they_stay_in_the_cache():
    """All 147 kB of them on a core with 512 KiB, one block after the other on a small one."""
    for name in ("float32", "sparse"):
        large, small = with_l2(512), with_l2(64)
        make = FORMATS[name][1]
        assert not conv_tiles(make(strip_bytes(large)), large)[0].rows_first
        expected = name == "float32"  # 50 of 576 inputs are 8 kB, and stay on any core
        assert conv_tiles(make(strip_bytes(small)), small)[0].rows_first == expected


PRODUCTS = {
    "float32": (4, lambda rows, k, n: dense((rows,), k, n, 8)),
    "sparse": (4, lambda rows, k, n: sparse((rows,), k, n, 8, k // 2)),
    "bfloat16": (2, lambda rows, k, n: dense_bf16((rows,), k, n, 8)),
    "int8": (1, lambda rows, k, n: static_int8((rows,), k, n, 8)),
    "sparse int8": (1, lambda rows, k, n: sparse_int8((rows,), k, n, 8, k // 8)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_a_product_reads_is_told_apart(name):
    size, make = PRODUCTS[name]
    sch = new_schedule(make(31, 64, 24))
    inputs, weights = operand_bytes(sch, next(n.block for n in flow(sch) if n.family))
    kept = 32 if "sparse" in name else 64
    lists = {"sparse": 3 * 32 * 4, "sparse int8": 3 * 8 * 4}.get(name, 0)
    assert (inputs, weights) == (size * 31 * 64, size * 24 * kept + lists)


@pytest.mark.parametrize("name", PRODUCTS)
def test_rows_pass_by_weights_where_only_these_stay_in_the_cache(name):
    size, make = PRODUCTS[name]
    rows = (96 << 10) // 64 // size  # of 96 KiB of inputs
    few, many = make(rows, 64, 16), make(rows, 64, 4096)
    for kib, expected in ((1024, True), (128, False)):
        first, *others = tiles(few, with_l2(kib), int8="int8" in name)
        assert first.rows_first == expected
        assert {t.rows_first for t in others} == {True, False}
    assert tiles(many, with_l2(128), int8="int8" in name)[0].rows_first
