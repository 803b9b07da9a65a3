import numpy as np
import pytest

from codesign.latency import Run, agreement, fit, kernel_sum, leave_one_out


def runs(scale=1.08, call=3e-6, n=12, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        total, calls = rng.uniform(2e-3, 2e-2), int(rng.integers(20, 90))
        wanted = (scale * total + call * calls) * (1 + noise * rng.standard_normal())
        found.append(Run(f"c{i}", total, calls, wanted))
    return found


def test_without_runs_the_sum_is_the_prediction():
    assert fit([]).predict(5e-3, 40) == 5e-3


def test_fit_finds_scale_and_cost_of_a_call():
    calibration = fit(runs(n=200, noise=0.01))
    assert calibration.scale == pytest.approx(1.08, rel=0.01)
    assert calibration.per_kernel == pytest.approx(3e-6, rel=0.3)
    assert calibration.runs == 200


def test_one_disturbed_run_does_not_bend_the_line():
    disturbed = runs()
    disturbed[4] = Run("busy", disturbed[4].kernel_seconds, 40, disturbed[4].measured * 3)
    errors = [
        abs(fit(disturbed).predict(r.kernel_seconds, r.kernels) / r.measured - 1) for r in runs()
    ]
    assert np.median(errors) < 0.02


def test_one_run_moves_the_prediction_towards_it():
    run = Run("first", 1e-2, 50, 1.1e-2)
    predicted = fit([run]).predict(run.kernel_seconds, run.kernels)
    assert 1.08e-2 < predicted < 1.1e-2


def test_leave_one_out_has_not_seen_the_run():
    known = runs(noise=0.01)
    known[0] = Run("odd", known[0].kernel_seconds, known[0].kernels, known[0].measured * 1.5)
    left_out, *_ = leave_one_out(known)
    assert left_out < known[0].measured / 1.4


def test_kernel_sum_counts_calls_and_names_what_is_missing():
    assert kernel_sum({"a": 2, "b": 1}, {"a": 1e-3, "b": 5e-4}) == pytest.approx(2.5e-3)
    with pytest.raises(KeyError, match="b"):
        kernel_sum({"a": 2, "b": 1}, {"a": 1e-3})


def test_agreement_of_a_reversed_ranking():
    found = agreement([3.0, 2.0, 1.0], [1.0, 2.0, 3.0])
    assert found.tau == pytest.approx(-1.0)
    assert found.median_error == pytest.approx(2 / 3)
    assert found.worst_error == pytest.approx(2.0)


def test_agreement_of_too_little():
    assert agreement([], []).median_error is None
    assert agreement([1.0], [2.0]).tau is None
    with pytest.raises(ValueError, match="1 predictions"):
        agreement([1.0], [1.0, 2.0])
