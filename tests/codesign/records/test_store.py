import math

import pytest

from codesign.candidate import Candidate, Choice
from codesign.measurement import Measurement, summarize
from codesign.records import (
    Evaluation,
    EvaluationKey,
    MeasureKey,
    Records,
    SensitivityKey,
    Trial,
)


def key(kernel="k0", **parts):
    defaults = {
        "target": "zen4/1",
        "device": "this",
        "protocol": {"repeats": 10},
        "versions": {"tvm": "0.27"},
    }
    return MeasureKey(kernel, **{**defaults, **parts})


GOOD = summarize([1.1e-3, 1.0e-3, 1.2e-3], [5e-4] * 4, load=0.05, worker="w1")
BAD = Measurement.failed("worker died with signal 11")


@pytest.fixture
def records(tmp_path):
    with Records(tmp_path / "new" / "records.sqlite") as opened:
        yield opened


def test_a_measurement_comes_back_whole(records):
    records.add_measurement(key(), GOOD)
    assert records.find_measurement(key()) == GOOD


def test_a_failure_is_a_record(records):
    records.add_measurement(key(), BAD)
    found = records.find_measurement(key())
    assert (found.error, found.samples) == (BAD.error, ())
    assert math.isnan(found.seconds)
    assert records.missing([key()]) == []
    assert records.missing([key()], retry_failed=True) == [key()]


def test_what_worked_comes_before_what_failed(records):
    for measurement in (BAD, GOOD, BAD):
        records.add_measurement(key(), measurement)
    assert records.find_measurement(key()) == GOOD


@pytest.mark.parametrize(
    "other",
    [
        {"kernel": "k1"},
        {"target": "zen4/2"},
        {"device": "that"},
        {"protocol": {"repeats": 20}},
        {"versions": {"tvm": "0.28"}},
        {"kind": "bundle"},
    ],
)
def test_every_part_of_the_key_counts(records, other):
    records.add_measurement(key(), GOOD)
    assert records.find_measurement(key(**other)) is None


def test_missing_keeps_order_and_names_each_once(records):
    records.add_measurement(key("b"), GOOD)
    wanted = [key(k) for k in ("c", "b", "a", "c")]
    assert records.missing(wanted) == [key("c"), key("a")]


def test_trials_come_back_in_order(records):
    trials = [Trial('{"tile": 8}', GOOD), Trial('{"tile": 6}', Measurement.failed("no registers"))]
    for trial in trials:
        records.add_trial(key(), trial)
    found = records.trials(key())
    assert [t.schedule for t in found] == [t.schedule for t in trials]
    assert found[0] == trials[0]
    assert found[1].measurement.error == "no registers"
    assert records.trials(key("other")) == []


def test_evaluations_and_sensitivities(records):
    candidate = Candidate((Choice("layer0.ffn", "ffn", {"keep": 768}),))
    evaluation_key = EvaluationKey("m", candidate.key, "docstrings-1000", "obs-1")
    assert records.find_evaluation(evaluation_key) is None
    records.add_evaluation(evaluation_key, Evaluation(error="ZeroDivisionError"))
    assert not records.find_evaluation(evaluation_key).ok
    records.add_evaluation(evaluation_key, Evaluation({"mrr": 0.54}, 0.013))
    assert records.find_evaluation(evaluation_key) == Evaluation({"mrr": 0.54}, 0.013)

    sensitivity = SensitivityKey("m", candidate, "calibration", "obs-1")
    assert records.find_sensitivity(sensitivity) is None
    records.add_sensitivity(sensitivity, 0.02)
    assert records.find_sensitivity(sensitivity) == 0.02
    assert records.find_sensitivity(SensitivityKey("m", candidate, "calibration", "2")) is None


def test_nan_is_no_quality(records):
    with pytest.raises(ValueError, match="JSON"):
        records.add_evaluation(EvaluationKey("m", "c", "d", "s"), Evaluation({"mrr": math.nan}))
    assert records.find_evaluation(EvaluationKey("m", "c", "d", "s")) is None


def test_nothing_is_changed_or_deleted(records):
    records.add_measurement(key(), GOOD)
    for statement in ("DELETE FROM measurements", "UPDATE measurements SET seconds = 1"):
        with pytest.raises(Exception, match="append-only"):
            records._connection.execute(statement)
