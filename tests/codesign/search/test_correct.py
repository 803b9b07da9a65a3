import itertools

import numpy as np
import pytest

from codesign.search import Correction, Observation, learn, learn_together


def random_picks(rng, n):
    return [tuple(int(i) for i in rng.integers(0, 3, 12)) for _ in range(n)]


def observe(tables, truth, picks, loss=lambda e: 2 * e):
    return [Observation(p, truth.totals(p)[1], loss(truth.totals(p)[1])) for p in picks]


def test_a_wrong_family_is_found(encoder):
    tables, truth = encoder(), encoder(int8=3.0)
    rng = np.random.default_rng(0)
    seen = learn(tables, observe(tables, truth, random_picks(rng, 8)))
    int8 = [f for (_, family), f in seen.factors.items() if family == "int8"]
    sparse = [f for (_, family), f in seen.factors.items() if family == "sparse"]
    assert np.mean(int8) == pytest.approx(3.0, rel=0.2)
    assert np.mean(sparse) == pytest.approx(1.0, rel=0.2)


def test_correcting_predicts_unseen_candidates_better(encoder):
    tables, truth = encoder(), encoder(int8=3.0, sparse=0.6)
    rng = np.random.default_rng(1)
    corrected = learn(tables, observe(tables, truth, random_picks(rng, 10))).apply(tables)
    unseen = random_picks(rng, 50)

    def error(which):
        wanted = np.array([truth.totals(p)[1] for p in unseen])
        return np.abs(np.array([which.totals(p)[1] for p in unseen]) / wanted - 1).mean()

    assert error(corrected) < 0.1 < 0.2 < error(tables)


def test_nothing_seen_changes_nothing(encoder):
    nothing = learn(encoder(), [])
    assert nothing.apply(encoder()) == encoder()
    assert nothing.loss(0.02) == pytest.approx(0.02)


def test_a_quality_without_output_error_teaches_only_the_map(encoder):
    picks = encoder().uniform("int8")
    seen = learn(encoder(), [Observation(picks, None, 0.1)])
    assert seen.factors == {}
    assert seen.loss(encoder().totals(picks)[1]) == pytest.approx(0.1)


def test_the_map_is_monotone_through_noise(encoder):
    rng = np.random.default_rng(2)
    picks = random_picks(rng, 20)
    noisy = observe(encoder(), encoder(), picks, lambda e: 0.5 * e + 0.01 * rng.standard_normal())
    seen = learn(encoder(), noisy)
    losses = [seen.loss(e) for e in np.linspace(0, 0.5, 200)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(losses))
    assert seen.loss(0.1) == pytest.approx(0.05, abs=0.02)


def test_the_map_is_inverted():
    correction = Correction({}, (0.0, 0.1, 0.2), (0.0, 0.01, 0.05))
    assert correction.max_error(0.01) == pytest.approx(0.1)
    assert correction.loss(correction.max_error(0.03)) == pytest.approx(0.03)
    assert correction.loss(0.8) == pytest.approx(0.1)  # the root beyond the last corner
    assert Correction({}, (0.0, 1.0), (0.0, 0.0)).max_error(0.1) == float("inf")


def test_a_gain_in_quality_is_kept():
    seen = Correction({}, (0.0, 0.1), (-0.02, -0.01))
    assert seen.loss(0.05) == pytest.approx(-0.015)
    assert seen.loss(0.3) == pytest.approx(-0.01)


# several tables ----------------------------------------------------------------------------------


def test_one_of_one_is_learnt_as_alone(encoder):
    tables, truth = encoder(), encoder(int8=3.0)
    seen = observe(tables, truth, random_picks(np.random.default_rng(0), 8))
    assert learn_together([tables], [seen]) == [learn(tables, seen)]


def test_tables_teach_each_other_what_they_have_in_common(encoder):
    tables = encoder()
    rng = np.random.default_rng(3)
    seen = observe(tables, encoder(int8=3.0), random_picks(rng, 10))
    own, other = learn_together([tables, tables], [seen, []])
    for correction in (own, other):
        int8 = [f for (_, family), f in correction.factors.items() if family == "int8"]
        assert np.mean(int8) == pytest.approx(3.0, rel=0.3)
    assert (own.errors, own.losses, own.count) == (other.errors, other.losses, 10)


def test_tables_that_err_in_another_way_get_their_own_factors(encoder):
    tables = encoder()
    rng = np.random.default_rng(4)
    seen = [
        observe(tables, encoder(int8=3.0), random_picks(rng, 15)),
        observe(tables, encoder(int8=0.7), random_picks(rng, 15)),
    ]
    means = [
        np.mean([f for (_, family), f in c.factors.items() if family == "int8"])
        for c in learn_together([tables, tables], seen)
    ]
    assert means[0] > 2 > 1.2 > means[1]


def test_the_map_to_quality_is_drawn_from_all(encoder):
    tables = encoder()
    a, b = tables.uniform("int8"), tables.uniform("sparse")
    seen = [[Observation(a, None, 0.1)], [Observation(b, None, 0.2)]]
    corrections = learn_together([tables, tables], seen)
    for correction in corrections:
        assert correction.loss(tables.totals(a)[1]) == pytest.approx(0.1)
        assert correction.loss(tables.totals(b)[1]) == pytest.approx(0.2)
