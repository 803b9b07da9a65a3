"""Merging tokens: which go, into which, and what is left, against loops in NumPy float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.kernels.merge_tokens import STRIDE, gather_rows, merge_reference, merge_tokens
from targets.target import find

LOWEST = np.finfo(np.float32).min


def rows(batch, seq, width, seed=0):
    """Random tokens whose magnitudes differ: cosines must not care."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, seq, width)) * 10.0 ** rng.integers(-3, 3, (batch, seq, 1))
    return x.astype(np.float32)


def padded(batch, seq, counts):
    """A bias that masks all but the first tokens of each sample."""
    bias = np.zeros((batch, 1, 1, seq), np.float32)
    for n, count in enumerate(counts):
        bias[n, ..., count:] = LOWEST
    return bias


def by_hand(x, bias, size, keep):
    """The definition, token by token, in float64: what is left, its size, and who stands for whom."""
    seq = len(x)
    seen = x[:, ::STRIDE].astype(np.float64)

    def cosine(i, j):
        norms = np.linalg.norm(seen[i]) * np.linalg.norm(seen[j])
        return seen[i] @ seen[j] / norms if norms else 0.0

    real = [bias[j] > -5e3 for j in range(seq)]
    cost = []
    for j in range(seq):
        near = max([cosine(i, j) for i in range(j) if real[i]], default=-1.0)
        cost.append(max(1 - near, 0) * size[j] if real[j] else -1)
    if real[0]:
        cost[0] = np.inf
    kept = sorted(sorted(range(seq), key=lambda j: (-cost[j], j))[:keep])
    place = [kept.index(j) if j in kept else 0 for j in range(seq)]
    total = [size[j] * x[j].astype(np.float64) for j in kept]
    grown = [float(size[j]) for j in kept]
    for j in range(seq):
        if real[j] and j not in kept:
            earlier = [m for m, i in enumerate(kept) if i < j and real[i]]
            place[j] = max(earlier, key=lambda m: cosine(kept[m], j))
            total[place[j]] = total[place[j]] + size[j] * x[j].astype(np.float64)
            grown[place[j]] += size[j]
    y = np.stack([t / g for t, g in zip(total, grown, strict=True)])
    new_bias = [float(bias[j]) + np.log(g / size[j]) for j, g in zip(kept, grown, strict=True)]
    return y, np.array(new_bias), np.array(grown), np.array(place), [real[j] for j in range(seq)]


def check(x, bias, size, keep, got, close):
    y, new_bias, new_size, place = got
    for n in range(len(x)):
        one_bias = bias[n, 0, 0]
        wanted = by_hand(x[n], one_bias, size[n], keep)
        real = np.array(wanted[4])
        np.testing.assert_array_equal(place[n][real], wanted[3][real])
        np.testing.assert_array_equal(new_size[n], wanted[2])
        np.testing.assert_allclose(new_bias[n, 0, 0], wanted[1], rtol=1e-6, atol=1e-6)
        close(y[n], wanted[0])
        also = merge_reference(x[n].astype(np.float64), one_bias.astype(np.float64), size[n], keep)
        np.testing.assert_array_equal(also.place[real], wanted[3][real])
        np.testing.assert_allclose(also.y, wanted[0], rtol=1e-12)
        np.testing.assert_allclose(also.bias, wanted[1])
        np.testing.assert_array_equal(also.size, wanted[2])


@pytest.mark.parametrize(
    ("batch", "seq", "keep", "width"),
    [
        (2, 37, 16, 48),
        (1, 64, 32, 100),
        (2, 5, 1, 7),
        (1, 12, 12, 33),
        (1, 1, 1, 3),
        (3, 50, 49, 5),
    ],
)
def test_against_the_definition(run, target, close, batch, seq, keep, width):
    x, size = rows(batch, seq, width), np.ones((batch, seq), np.float32)
    bias = padded(batch, seq, [seq, max(1, seq // 2), seq - 1][:batch])
    for got in run(merge_tokens(batch, seq, keep, width, target.lanes), target, [x, bias, size]):
        check(x, bias, size, keep, got, close)


def test_sizes_and_a_bias(run, target, close):
    rng = np.random.default_rng(3)
    x, size = rows(2, 33, 24), rng.integers(1, 6, (2, 33)).astype(np.float32)
    bias = (0.1 * rng.standard_normal((2, 1, 1, 33))).astype(np.float32)
    bias[..., ::7] = LOWEST
    for got in run(merge_tokens(2, 33, 10, 24, target.lanes), target, [x, bias, size]):
        check(x, bias, size, 10, got, close)


@pytest.fixture(scope="module")
def nine(compiled):
    return compiled(merge_tokens(1, 9, 4, 6, find("host").lanes), find("host"))


def test_short_texts_stay_exact(compiled, target):
    x = rows(1, 40, 16)
    inputs = [x, padded(1, 40, [11]), np.ones((1, 40), np.float32)]
    y, bias, size, place = compiled(merge_tokens(1, 40, 16, 16, target.lanes), target)(inputs)
    np.testing.assert_array_equal(y[0, :11], x[0, :11])
    np.testing.assert_array_equal(bias[0, 0, 0], inputs[1][0, 0, 0, :16])
    assert (size == 1).all()
    np.testing.assert_array_equal(place[0, :11], np.arange(11))


def test_equal_tokens_go_first_and_ties_keep_the_earlier(nine):
    x = np.repeat(rows(1, 3, 6), 3, axis=1) * np.linspace(1, 2, 9, dtype=np.float32)[:, None]
    y, _, size, place = nine([x, np.zeros((1, 1, 1, 9), np.float32), np.ones((1, 9), np.float32)])
    leaders = place[0, ::3]
    assert len(set(leaders)) == 3
    for group in range(3):
        assert set(place[0, 3 * group : 3 * group + 3]) <= {leaders[group], leaders[group] + 1}
    assert size.sum() == 9
    assert np.isfinite(y).all()


def test_zeros_everywhere(nine):
    zeros = np.zeros((1, 9, 6), np.float32)
    y, _, size, place = nine(
        [zeros, np.zeros((1, 1, 1, 9), np.float32), np.ones((1, 9), np.float32)]
    )
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(place[0], [0, 1, 2, 3, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(size[0], [6, 1, 1, 1])


def test_only_padding(nine):
    bias = np.full((1, 1, 1, 9), LOWEST, np.float32)
    x = rows(1, 9, 6)
    y, new_bias, size, place = nine([x, bias, np.ones((1, 9), np.float32)])
    np.testing.assert_array_equal(y[0], x[0, :4])
    assert (new_bias == LOWEST).all()
    assert (size == 1).all()
    assert place.max() < 4


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(FLOATS, min_size=54, max_size=54), st.lists(st.booleans(), min_size=9, max_size=9))
def test_places_are_valid_whatever_comes(nine, values, mask):
    x = np.array(values, np.float32).reshape(1, 9, 6)
    bias = np.where(mask, np.float32(0), LOWEST).astype(np.float32).reshape(1, 1, 1, 9)
    _, _, size, place = nine([x, bias, np.ones((1, 9), np.float32)])
    assert place.min() >= 0
    assert set(np.arange(4)) == set(place[0])
    assert size.min() >= 1
    assert size.sum() <= 9
    if mask[0]:
        assert place[0, 0] == 0


@pytest.mark.parametrize(("keep", "seq"), [(0, 4), (5, 4)])
def test_impossible_numbers(keep, seq):
    with pytest.raises(ValueError, match="cannot be kept"):
        merge_tokens(1, seq, keep, 8, 8)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 7, 5), "float32"), ((1, 4, 16), "float32"), ((3, 6), "int32")]
)
def test_gather(run, target, shape, dtype):
    rng = np.random.default_rng(0)
    x = (100 * rng.standard_normal(shape)).astype(dtype)
    index = rng.integers(0, shape[1], (shape[0], 9)).astype(np.int32)
    for (y,) in run(gather_rows(shape, 9, dtype), target, [x, index]):
        np.testing.assert_array_equal(y, np.stack([a[i] for a, i in zip(x, index, strict=True)]))
