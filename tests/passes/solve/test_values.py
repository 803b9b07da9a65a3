"""Extremes and samples of calibration rows."""

from __future__ import annotations

import numpy as np

from codesign.simulate.moments import merged as merged_grams
from passes.solve.gram import Gram
from passes.solve.values import LIMIT, Values, merged

rng = np.random.default_rng(4)


def some(count, features):
    return rng.standard_normal((count, features)).astype(np.float32)


def taken(*parts):
    values = Values(parts[0].shape[1])
    for part in parts:
        values.add(part)
    return values


def test_extremes_are_exact_and_the_sample_is_bounded():
    x = some(3000, 512)
    values = taken(x)
    np.testing.assert_array_equal(values.low, x.min(0))
    np.testing.assert_array_equal(values.high, x.max(0))
    assert values.rows.shape == (LIMIT // 512, 512)
    where = [int(np.flatnonzero((x == row).all(1))[0]) for row in values.rows]
    assert len(set(where)) == len(where)
    # spread over all rows: without it, they would be the first 256
    thirds = np.histogram(where, 3, (0, 3000))[0]
    assert thirds.min() > 50


def test_all_rows_stay_while_there_is_room():
    x = some(20, 8)
    values = taken(x[:7], x[7:7], x[7:])
    np.testing.assert_array_equal(np.sort(values.rows, 0), np.sort(x, 0))


def test_the_sample_does_not_depend_on_how_rows_come():
    x = some(1500, 512)
    at_once, bit_by_bit = taken(x), taken(*np.array_split(x, 23))
    np.testing.assert_array_equal(at_once.rows, bit_by_bit.rows)


def test_extremes_include_zero():
    values = taken(np.array([[3, -2]], np.float32))
    assert values.low.tolist() == [0, -2]
    assert values.high.tolist() == [3, 0]


def test_parts_are_merged():
    a, b = some(900, 512), some(700, 512) + 9
    together = merged([taken(a), taken(b)])
    np.testing.assert_array_equal(together.high, np.maximum(a.max(0), b.max(0)))
    assert together.rows.shape == (LIMIT // 512, 512)
    share = (together.rows.mean(1) > 4).mean()
    assert abs(share - 700 / 1600) < 0.1


def test_a_gram_carries_the_values_of_its_inputs():
    a, b = some(40, 6) + 3, some(30, 6)
    gram = merged_grams([Gram(6).add(a), Gram(6).add_outputs(b, some(30, 2))])
    gram.residual = gram.mean_r = None
    x = np.concatenate([a, b])
    kept = np.array([4, 1])
    for one, wanted in ((gram, x), (gram.centred(), x), (gram.rows(kept), x[:, kept])):
        np.testing.assert_array_equal(one.values.high, wanted.max(0))
        assert len(one.values.rows) == 70
        assert set(one.values.rows[:, 0]) == set(wanted[:, 0])
