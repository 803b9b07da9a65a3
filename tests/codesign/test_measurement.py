import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from codesign.measurement import Measurement, Protocol, median, median_interval, summarize


def test_protocol_survives_json_and_its_hash_tells_it_apart():
    protocol = Protocol(repeats=7, threads=2, affinity=(0, 1))
    again = Protocol.from_json(json.loads(json.dumps(protocol.to_json())))
    assert again == protocol
    assert again.hash == protocol.hash
    assert len({protocol.hash, Protocol().hash, Protocol(threads=2).hash}) == 3


@pytest.mark.parametrize(
    "wrong", [{"repeats": 0}, {"threads": 0}, {"min_block_ms": 0.0}, {"cache": "cold"}]
)
def test_impossible_protocols_are_refused(wrong):
    with pytest.raises(ValueError):
        Protocol(**wrong)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 10, 25, 100])
def test_interval_is_the_shortest_that_covers_the_median(n):
    lo, hi = median_interval([float(v) for v in range(n)][::-1])
    k = int(lo) + 1
    assert hi == n - k
    covered = 1 - 2 * binom.cdf(k - 1, n, 0.5)
    assert covered >= 0.95 or k == 1
    narrower = 1 - 2 * binom.cdf(k, n, 0.5)
    assert narrower < 0.95 or k >= n // 2


def test_interval_covers_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        lo, hi = median_interval(rng.exponential(size=15).tolist())
        hits += lo <= math.log(2) <= hi
    assert hits / 400 > 0.92


def test_median_of_even_and_odd():
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 3, 2]) == 2.5


def test_ratio_cancels_drift():
    drift = np.linspace(1, 2, 21)  # the machine slows down to half its speed
    measurement = summarize((0.5 * drift[1::2]).tolist(), drift[0::2].tolist(), load=0.1, calls=3)
    assert measurement.ratio == pytest.approx(0.5, rel=0.05)
    assert measurement.load == 0.1
    assert measurement.meta == {"calls": 3}


def test_interruptions_of_the_reference_do_not_count():
    reference = [1.0, 9.0, 1.0, 1.0, 30.0, 1.0, 1.0]
    assert summarize([2.0] * 6, reference).ratio == 2.0


def test_a_busy_neighbour_does_not_count_while_a_quarter_of_the_blocks_is_undisturbed():
    blocks, reference = (
        [1.0, 3.0, 3.1, 1.0, 2.9, 3.0, 1.0, 3.2, 3.0, 3.0],
        [0.5, *[1.6] * 7, *[0.5] * 3],
    )
    measurement = summarize(blocks, reference)
    assert measurement.seconds == 3.0
    assert measurement.quiet == 1.0
    assert measurement.ratio == 2.0
    assert measurement.unrest == 0.0
    assert summarize([1.0, *[3.0] * 9]).unrest == 2.0
    assert Measurement(seconds=4.0).quiet == 4.0


def test_samples_that_are_no_times_are_a_failure():
    for samples in ([], [0.0], [1.0, math.nan], [-1.0]):
        assert not summarize(samples).ok
    assert math.isnan(summarize([1.0]).ratio)
    with pytest.raises(ValueError):
        summarize([1.0, 2.0], [1.0, 2.0])


@pytest.mark.parametrize(
    "measurement",
    [
        summarize([1.0, 2.0, 3.0], [1.0] * 4, load=0.5, calls=2),
        summarize([1.0]),
        Measurement.failed("crash: it died", stage="run"),
    ],
)
def test_measurement_survives_strict_json(measurement):
    text = json.dumps(measurement.to_json(), allow_nan=False)
    again = Measurement.from_json(json.loads(text))
    assert repr(again) == repr(measurement)  # NaN equals nothing, not even itself


def test_a_failure_always_has_a_reason():
    assert Measurement.failed("").error
    assert Measurement.failed("x").with_meta(a=1).meta == {"a": 1}


@pytest.mark.parametrize("count", [1023, 1030, 20_000])
def test_the_interval_of_a_long_run(count):
    """The binomial coefficients of over 1,000 samples are larger than any float."""
    lo, hi = median_interval([float(i) for i in range(count)])
    half = 1.96 * count**0.5 / 2
    assert lo == pytest.approx(count / 2 - half, abs=2)
    assert hi == pytest.approx(count / 2 + half, abs=2)
