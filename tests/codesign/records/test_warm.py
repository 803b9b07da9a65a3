"""Hints from other devices, the order they give, and what it gained."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from codesign.measurement import Measurement, summarize
from codesign.records import MeasureKey, Records, Trial
from codesign.records.entries import Elsewhere
from codesign.records.transfer import summary, transfers
from codesign.records.warm import Gain, Hint, gain, hints, matched, order


def key(device="here", target="t", **parts):
    return MeasureKey("k", target, device, parts.pop("protocol", {}), {"v": "1"}, **parts)


def trial(schedule, ratio, **meta):
    measured = summarize([1e-3 * ratio] * 3, [1e-3] * 4).with_meta(**meta)
    return Trial(schedule, measured)


HERE = key()


def elsewhere(other, *trials, **decisions):
    return Elsewhere(other, tuple(trials), decisions)


def test_the_most_similar_place_comes_first_and_what_was_slow_there_not_at_all():
    found = hints(
        HERE,
        [
            elsewhere(key("far", "u"), trial("a", 1.0), trial("b", 1.1), trial("slow", 2.0)),
            elsewhere(key("near"), trial("c", 3.3), trial("d", 3.0)),
            elsewhere(key(protocol={"repeats": 3}), trial("e", 9.0)),
        ],
    )
    assert [h.schedule for h in found] == ["e", "d", "c", "a", "b"]
    assert [h.distance for h in found] == [0, 1, 1, 2, 2]
    assert found[2].relative == 3.3 / 3.0


def test_failures_and_emulated_runs_say_nothing():
    dead = Trial("a", Measurement.failed("died"))
    assert hints(HERE, [elsewhere(key("x"), dead, trial("b", 1.0, emulated=True))]) == []


def hint(schedule, decisions=""):
    return Hint(schedule, decisions, 1.0, "d", "t", 2)


def test_by_hash_or_else_by_decisions():
    space, decided = ["a", "b", "c"], {"a": "1", "b": "2", "c": "3"}
    found = matched(space, decided, [hint("c"), hint("x", "2"), hint("y", "9"), hint("z")])
    assert list(found) == ["c", "b"]
    assert matched(space, {}, [hint("x", "")]) == {}


def test_default_tried_warm_rest():
    assert order(["a", "b", "c", "d"], ["d", "gone"], ["c"]) == ["a", "d", "c", "b"]
    assert order([], ["d"], ["c"]) == []


hashes = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)


@given(hashes, st.lists(st.sampled_from("abcdefghxyz")), st.lists(st.sampled_from("abcdefghxyz")))
def test_an_order_is_a_permutation_with_the_default_first(space, tried, warm):
    found = order(space, tried, warm)
    assert sorted(found) == sorted(space)
    assert found[0] == space[0]
    rest = [s for s in found if s not in {*tried, *warm, space[0]}]
    assert rest == [s for s in space if s in rest]


def test_what_an_order_gained():
    times = {"a": 2.0, "b": math.nan, "c": 1.01, "d": 1.0}
    assert gain("abcd", "adcb", times) == Gain(default=3, warm=2, exact=True)
    assert gain("abcd", "ad", {"a": 2.0, "d": 1.0}) == Gain(default=4, warm=2, exact=False)
    assert gain("abcd", "a", {}) is None


@given(hashes, st.data())
def test_a_perfect_hint_needs_two_trials_at_most(space, data):
    times = {h: data.draw(st.floats(1.0, 9.0)) for h in space}
    best = min(times, key=lambda h: times[h])
    found = gain(space, order(space, [], [best]), times)
    assert found.warm <= 2
    assert found.exact
    assert gain(space, space, times).warm == found.default


def test_the_records_know_other_devices(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        session = records.start("run")
        phone, other = key("phone"), MeasureKey("k2", "t", "phone", {}, {})
        records.add_trial(phone, trial("s", 1.0))
        records.add_trial(phone, Trial("t", Measurement.failed("died")))
        records.add_trial(HERE, trial("u", 1.0))
        records.add_trial(other, trial("v", 1.0))
        records.add_measurement(key("measured only"), trial("w", 1.0).measurement)
        before = records.counts("run", session)
        (found,) = records.trials_elsewhere(HERE)
        assert found.key == phone
        assert [t.schedule for t in found.trials] == ["s", "t"]
        assert found.decisions == {}
        measured = trial("s", 1.0, decisions={"s": "d1"}).measurement
        records.add_measurement(phone, measured)
        assert records.trials_elsewhere(HERE)[0].decisions == {"s": "d1"}
        assert records.counts("run", session).reused == before.reused  # looking is no use


def test_the_gain_in_words():
    told = {"default": 5, "warm": 2, "exact": True, "from": ["phone"]}
    rows = [("k", "t", "d", {"transfer": told}), ("l", "t", "d", {})]
    (found,) = transfers(rows)
    assert found.as_dict()["trials_warm"] == 2
    assert summary([found]) == (
        "1 kernel tuned with records from elsewhere: 2 trials until within 2% of the best,"
        " 5 in the order of the space"
    )
    rough = transfers([("k", "t", "d", {"transfer": {**told, "exact": False}})])
    assert "2 kernels" in summary([found, *rough])
    assert "4 trials until within 2% of the best, at most 10" in summary([found, *rough])
    assert summary([]).startswith("no kernel")
