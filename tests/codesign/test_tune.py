"""Tuning a small kernel for real, with a space of our own, and what it must never do twice."""

import json

import pytest
import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule

from codesign.build import BuiltKernel
from codesign.errors import UserError
from codesign.kernels import Kernel, kernel_hash
from codesign.measure import Protocol, Rig
from codesign.metaschedule import TraceDatabase, _drop_half_line
from codesign.records import Records, Trial
from codesign.records.exporting import export_records
from codesign.records.importing import import_records
from codesign.tune import tune
from targets.target import host

_TARGET = host()
_DEVICE = "this one"


def _product(n, name):
    """y[i, j] = sum_k x[i, k] w[k, j] over n x n."""
    x, w = te.placeholder((n, n), name="x"), te.placeholder((n, n), name="w")
    k = te.reduce_axis((0, n), name="k")
    y = te.compute((n, n), lambda i, j: te.sum(x[i, k] * w[k, j], axis=k), name="y")
    func = te.create_prim_func([x, w, y]).without_attr("global_symbol")
    return Kernel(kernel_hash(func), func, name, 1)


_SMALL, _LARGE = _product(64, "small"), _product(96, "large")


def _space(func, target, tiles=(1, 4, 16)):
    """The slow schedule first, then vectorised ones; recorded as sampled decisions."""
    found = []
    # Schedule changes a function in place that nobody else holds, and its shared body with it
    func = func.with_attr("global_symbol", "main")
    for tile in tiles:
        sch = Schedule(tvm.IRModule({"main": func}))
        block = sch.get_sblock("y")
        i, j, k = sch.get_loops(block)
        decision = sch.sample_categorical([1, 4, 16], [0.4, 0.3, 0.3], [1, 4, 16].index(tile))
        outer, inner = sch.split(j, [None, decision])
        sch.reorder(i, outer, k, inner)
        if tile > 1:
            sch.vectorize(inner)
        found.append(sch)
    return found


class _CountingRig(Rig):
    built = 0
    timed = 0

    def build(self, kernels):
        self.built += len(kernels)
        return super().build(kernels)

    def time(self, kernel, **options):
        self.timed += isinstance(kernel, BuiltKernel)
        return super().time(kernel, **options)


@pytest.fixture(scope="module")
def _rig():
    with _CountingRig(_TARGET, Protocol(repeats=7, min_block_ms=0.3)) as rig:
        rig.reference()
        yield rig


@pytest.fixture
def rig(_rig):
    _rig.built = _rig.timed = 0
    return _rig


@pytest.fixture
def records(tmp_path):
    records = Records(tmp_path / "records.sqlite")
    yield records
    records.close()


def _tune(rig, records, tmp_path, trials, kernels=(_SMALL,), device=_DEVICE, **options):
    options = {"space": _space, **options}
    return tune(kernels, _TARGET, device, rig, records, trials, tmp_path / "traces", **options)


def test_finds_a_better_schedule_and_stores_it(rig, records, tmp_path):
    seen = []
    result = _tune(
        rig, records, tmp_path, 3, (_SMALL, _LARGE), progress=lambda *state: seen.append(state)
    )
    assert list(result) == [_SMALL.hash, _LARGE.hash]
    for tuned in result.values():
        assert tuned.measurement.ok
        assert (tuned.made, tuned.reused) == (3, 0)
        assert tuned.measurement.meta["default_ratio"] > 0
        assert kernel_hash(tuned.func) == tuned.measurement.meta["schedule"]
        assert "vectorized" in tuned.func.script()
    assert [kernel_hash(k.func) for k in (_SMALL, _LARGE)] == list(result)  # left as they were
    assert seen[-1][:2] == (6, 6)
    assert [name for *_, name in seen[:2]] == ["small", "large"]  # every default first


def test_nothing_is_tried_twice(rig, records, tmp_path):
    first = _tune(rig, records, tmp_path, 3)[_SMALL.hash]
    rig.timed = rig.built = 0
    again = _tune(rig, records, tmp_path, 3)[_SMALL.hash]
    assert (rig.built, rig.timed) == (0, 0)
    assert (again.made, again.reused) == (0, 3)
    assert again.measurement == first.measurement
    tvm.ir.assert_structural_equal(again.func, first.func)


def test_a_larger_budget_runs_only_what_is_missing(rig, records, tmp_path):
    assert _tune(rig, records, tmp_path, 1)[_SMALL.hash].made == 1
    more = _tune(rig, records, tmp_path, 2)[_SMALL.hash]
    assert (more.made, more.reused) == (1, 1)
    every = _tune(rig, records, tmp_path, 50)[_SMALL.hash]
    assert (every.made, every.reused) == (1, 2)
    rig.built = 0
    assert _tune(rig, records, tmp_path, 1000)[_SMALL.hash].made == 0
    assert rig.built == 0


def test_another_device_is_another_story(rig, records, tmp_path):
    _tune(rig, records, tmp_path, 1)
    assert _tune(rig, records, tmp_path, 1, device="that one")[_SMALL.hash].made == 1
    assert len(list((tmp_path / "traces").iterdir())) == 2


def test_an_interrupted_search_goes_on(rig, records, tmp_path, monkeypatch):
    def stop(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _tune(rig, records, tmp_path, 3, progress=stop)
    resumed = _tune(rig, records, tmp_path, 3)[_SMALL.hash]
    assert (resumed.made, resumed.reused) == (1, 2)
    assert resumed.measurement.ok


def test_lost_traces_are_found_in_the_space(rig, records, tmp_path):
    first = _tune(rig, records, tmp_path, 3)[_SMALL.hash]
    for file in (tmp_path / "traces").rglob("database_*.json"):
        file.unlink()
    again = _tune(rig, records, tmp_path, 3)[_SMALL.hash]
    assert again.made == 0
    tvm.ir.assert_structural_equal(again.func, first.func)


def test_the_trace_is_enough_without_the_space(rig, records, tmp_path):
    first = _tune(rig, records, tmp_path, 3)[_SMALL.hash]

    def no_space(func, target):
        raise AssertionError("not needed")

    again = _tune(rig, records, tmp_path, 3, space=no_space)[_SMALL.hash]
    tvm.ir.assert_structural_equal(again.func, first.func)


def _with_body(schedule, name):
    func = schedule.mod["main"].with_body(tirx.Evaluate(tirx.call_extern("int32", name)))
    schedule.mod.update_func(schedule.mod.get_global_var("main"), func)
    return _Fixed(schedule, func)


class _Fixed:
    """A schedule whose result is not what its trace says."""

    def __init__(self, schedule, func):
        self.trace = schedule.trace
        self.mod = tvm.IRModule({"main": func})


def test_schedules_that_crash_or_compute_something_else_never_win(rig, records, tmp_path):
    def space(func, target):
        slow, fast, other = _space(func, target)
        return [slow, _with_body(fast, "abort"), _with_body(other, "getpid")]

    tuned = _tune(rig, records, tmp_path, 3, space=space)[_SMALL.hash]
    tvm.ir.assert_structural_equal(tuned.func, _space(_SMALL.func, _TARGET)[0].mod["main"]
                                   .without_attr("global_symbol"))  # fmt: skip
    assert tuned.measurement.ok
    errors = [t.measurement.error for t in records.trials(_key(rig))]
    assert errors[0] is None
    assert "SIGABRT" in errors[1]
    assert "differ" in errors[2]


def _key(rig):
    from codesign.device import measure_key

    return measure_key(_SMALL.hash, _TARGET, _DEVICE, rig.protocol)


def test_a_kernel_that_never_runs_keeps_its_default(rig, records, tmp_path):
    def space(func, target):
        return [_with_body(_space(func, target)[0], "abort")]

    tuned = _tune(rig, records, tmp_path, 1, space=space)[_SMALL.hash]
    assert not tuned.measurement.ok
    assert "SIGABRT" in tuned.measurement.error
    assert isinstance(tuned.func, tirx.PrimFunc)
    assert _tune(rig, records, tmp_path, 1, space=space)[_SMALL.hash].made == 0


def test_a_budget_of_nothing_is_refused(rig, records, tmp_path):
    with pytest.raises(ValueError):
        _tune(rig, records, tmp_path, 0)


def test_two_processes_do_not_write_the_same_traces(tmp_path):
    with TraceDatabase(tmp_path), pytest.raises(UserError, match="another process"):
        TraceDatabase(tmp_path)
    with TraceDatabase(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        TraceDatabase(tmp_path / "file" / "traces")


def test_traces_survive_a_kill_in_the_middle_of_a_line(tmp_path):
    schedules = _space(_SMALL.func, _TARGET)
    with TraceDatabase(tmp_path) as database:
        for seconds, schedule in zip((3.0, 1.0, 2.0), schedules, strict=True):
            database.add(_SMALL.func, schedule, seconds, _TARGET.tvm())
        database.add(_LARGE.func, _space(_LARGE.func, _TARGET)[0], 1.0, _TARGET.tvm())
    for file in tmp_path.glob("database_*.json"):
        data = file.read_bytes()
        file.write_bytes(data[:-7])
    with TraceDatabase(tmp_path) as database:
        assert len(database) == 3
        for schedule in schedules:
            found = database.find(_SMALL.func, kernel_hash(schedule.mod["main"]))
            tvm.ir.assert_structural_equal(found.mod, schedule.mod)
        assert database.find(_LARGE.func, "0" * 16) is None


def test_whole_lines_are_left_alone(tmp_path):
    file = tmp_path / "x.json"
    for data, kept in [
        (b"", b""),
        (b"[1]\n[2]\n", b"[1]\n[2]\n"),
        (b"[1]\n[2]", b"[1]\n[2]\n"),
        (b"[1]\n[2", b"[1]\n"),
        (b"[1", b""),
    ]:
        file.write_bytes(data)
        _drop_half_line(file)
        assert file.read_bytes() == kept
        assert all(json.loads(line) for line in kept.splitlines())


def _wide_space(func, target):
    """Eight schedules; only the last one is vectorised, so it is by far the fastest."""
    found = []
    func = func.with_attr("global_symbol", "main")
    for tile in (1, 2, 3, 4, 6, 8, 12, 16):
        sch = Schedule(tvm.IRModule({"main": func}))
        i, j, k = sch.get_loops(sch.get_sblock("y"))
        outer, inner = sch.split(j, [None, tile])
        sch.reorder(i, outer, k, inner)
        if tile == 16:
            sch.vectorize(inner)
        found.append(sch)
    return found


def _elsewhere(rig, target=_TARGET, device="phone", fast=-1):
    """The trials of another device: one schedule was fast, the default was not."""
    from codesign.device import measure_key
    from codesign.measurement import summarize

    space = _wide_space(_SMALL.func, target)
    key = measure_key(_SMALL.hash, target, device, rig.protocol)
    trials = [
        Trial(kernel_hash(space[i].mod["main"]), summarize([t] * 5, [1e-3] * 6))
        for i, t in ((0, 9e-3), (fast, 1e-3))
    ]
    return key, trials, space


def test_what_was_fast_elsewhere_is_tried_right_after_the_default(rig, records, tmp_path):
    key, trials, space = _elsewhere(rig)
    for trial in trials:
        records.add_trial(key, trial)
    tuned = _tune(rig, records, tmp_path, 2, space=_wide_space)[_SMALL.hash]
    best = kernel_hash(space[-1].mod["main"])
    assert [t.schedule for t in records.trials(_key(rig))] == [trials[0].schedule, best]
    assert tuned.measurement.meta["schedule"] == best
    told = tuned.measurement.meta["transfer"]
    place = f"phone: {_TARGET.mcpu}, 1 thread"
    assert told == {"default": 8, "warm": 2, "exact": False, "from": [place]}
    assert set(tuned.measurement.meta["decisions"]) == {trials[0].schedule, best}


def test_without_other_devices_the_order_is_that_of_the_space(rig, records, tmp_path):
    tuned = _tune(rig, records, tmp_path, 2, space=_wide_space)[_SMALL.hash]
    space = [kernel_hash(s.mod["main"]) for s in _wide_space(_SMALL.func, _TARGET)]
    assert [t.schedule for t in records.trials(_key(rig))] == space[:2]
    assert "transfer" not in tuned.measurement.meta


def test_a_budget_counts_what_was_tried_before_the_hints_came(rig, records, tmp_path):
    _tune(rig, records, tmp_path, 2, space=_wide_space)
    key, trials, space = _elsewhere(rig)
    for trial in trials:
        records.add_trial(key, trial)
    again = _tune(rig, records, tmp_path, 2, space=_wide_space)[_SMALL.hash]
    assert again.made == 0
    more = _tune(rig, records, tmp_path, 3, space=_wide_space)[_SMALL.hash]
    assert (more.made, more.reused) == (1, 2)
    assert more.measurement.meta["schedule"] == kernel_hash(space[-1].mod["main"])


def test_another_targets_schedule_is_known_by_its_decisions(rig, records, tmp_path):
    from codesign.decisions import decisions
    from codesign.device import measure_key
    from codesign.measurement import summarize

    best = _wide_space(_SMALL.func, _TARGET)[-1]
    key = measure_key(_SMALL.hash, _TARGET.with_threads(2), "phone", rig.protocol)
    fast = summarize([1e-3] * 5, [1e-3] * 6)
    records.add_trial(key, Trial("of other code", fast))
    records.add_measurement(key, fast.with_meta(decisions={"of other code": decisions(best)}))
    tuned = _tune(rig, records, tmp_path, 2, space=_wide_space)[_SMALL.hash]
    assert tuned.measurement.meta["schedule"] == kernel_hash(best.mod["main"])


def test_our_own_spaces_are_looked_through_for_what_was_fast(rig, records, tmp_path):
    """With a budget of 2 only 3 of a space's schedules are made, unless others are wanted."""
    from codesign.device import measure_key
    from codesign.measurement import summarize
    from targets.kernels import spaces
    from targets.kernels.linear import dense

    func = dense([33], 48, 2 * _TARGET.block, _TARGET.block)
    kernel = Kernel(kernel_hash(func), func, "linear", 1)
    space = [kernel_hash(s.mod["main"]) for s in spaces.schedules(func, _TARGET)]
    assert len(space) > 4
    key = measure_key(kernel.hash, _TARGET, "phone", rig.protocol)
    records.add_trial(key, Trial(space[-1], summarize([1e-3] * 5, [1e-3] * 6)))
    _tune(rig, records, tmp_path, 2, (kernel,), space=None)
    mine = measure_key(kernel.hash, _TARGET, _DEVICE, rig.protocol)
    assert [t.schedule for t in records.trials(mine)] == [space[0], space[-1]]


def _travelled(source, tmp_path):
    """Another file with the same records, as if they came from somebody else: without any traces."""
    export_records(source, tmp_path / "away.jsonl.gz")
    import_records(tmp_path / "away.jsonl.gz", tmp_path / "away.sqlite")
    return Records(tmp_path / "away.sqlite")


def test_imported_records_need_no_traces(rig, records, tmp_path):
    first = _tune(rig, records, tmp_path, 3)[_SMALL.hash]
    rig.built = 0
    with _travelled(records.path, tmp_path) as others:
        again = _tune(rig, others, tmp_path / "away", 3)[_SMALL.hash]
    assert (again.made, again.reused, rig.built) == (0, 3, 0)
    assert again.measurement == first.measurement
    tvm.ir.assert_structural_equal(again.func, first.func)  # found in the space by its hash


def test_an_imported_schedule_that_no_space_has_is_not_taken(rig, records, tmp_path):
    """Records are numbers; what runs comes of our own space, whatever they claim."""
    from codesign.measurement import summarize

    forged = summarize([1e-9] * 5, [1e-3] * 6)
    for i in range(3):
        records.add_trial(_key(rig), Trial(f"forged {i}", forged))
    records.add_measurement(_key(rig), forged.with_meta(schedule="forged 0", exhausted=True))
    key, *_ = _elsewhere(rig)
    records.add_trial(key, Trial("forged too", forged))
    with _travelled(records.path, tmp_path) as others:
        tuned = _tune(rig, others, tmp_path / "away", 3)[_SMALL.hash]
    assert tuned.made == 3
    assert tuned.measurement.meta["schedule"] in {
        kernel_hash(s.mod["main"]) for s in _space(_SMALL.func, _TARGET)
    }
    assert "transfer" not in tuned.measurement.meta
