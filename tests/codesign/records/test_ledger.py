from codesign.measurement import Measurement, summarize
from codesign.records import Counts, MeasureKey, Records, Trial

GOOD = summarize([1e-3, 1.1e-3, 1.2e-3])


def key(kernel, kind="kernel"):
    return MeasureKey(kernel, "t", "d", {}, {}, kind)


def test_counts_of_a_run_and_of_the_next(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        records.start("first", "codesign sweep a.toml", {"max_loss": 0.01})
        for name in ("a", "b"):
            records.add_measurement(key(name), GOOD)
        records.add_measurement(key("p", "bundle"), GOOD)
        records.add_trial(key("a"), Trial("{}", GOOD))
        records.finish("first")

        records.start("second")
        records.find_measurement(key("a"))
        records.find_measurement(key("a"))
        records.find_measurement(key("nothing"))
        records.trials(key("a"))
        records.add_measurement(key("c"), GOOD)

        assert records.counts("first") == Counts({"kernel": 2, "bundle": 1, "trial": 1}, {}, {})
        assert records.counts("second") == Counts({"kernel": 1}, {"kernel": 1, "trial": 1}, {})
        assert records.runs() == ["first", "second"]


def test_a_resumed_run_reuses_its_own_records(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        records.start("run")
        records.add_measurement(key("a"), GOOD)
        resumed = records.start("run")
        records.find_measurement(key("a"))
        assert records.counts("run") == Counts({"kernel": 1}, {"kernel": 1}, {})
        assert records.counts("run", resumed) == Counts({}, {"kernel": 1}, {})
        assert records.run("run").sessions == 2


def test_measuring_again_is_seen(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        records.start("run")
        records.add_measurement(key("a"), Measurement.failed("timeout"))
        records.add_measurement(key("a"), GOOD)  # a retry of a failure is no repetition
        assert records.counts("run").again == {}
        records.add_measurement(key("a"), GOOD)
        assert records.counts("run").again == {"kernel": 1}


def test_a_run_is_remembered(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        assert records.run("run") is None
        records.start("run", "codesign sweep", {"max_loss": 0.01})
        assert records.run("run").finished is None
        records.finish("run")
    with Records(tmp_path / "r.sqlite") as records:
        info = records.run("run")
    assert (info.command, info.goal) == ("codesign sweep", {"max_loss": 0.01})
    assert info.finished >= info.started


def test_a_worker_writes_for_the_session_of_its_parent(tmp_path):
    with Records(tmp_path / "r.sqlite") as parent:
        session = parent.start("run")
        with Records(tmp_path / "r.sqlite", session=session) as worker:
            worker.add_measurement(key("a"), GOOD)
        assert parent.counts("run").made == {"kernel": 1}


def test_without_a_run_nothing_is_counted(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        records.add_measurement(key("a"), GOOD)
        assert records.find_measurement(key("a")) == GOOD
        records.start("run")
        assert records.counts("run") == Counts({}, {}, {})
