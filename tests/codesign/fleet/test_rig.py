"""A rig whose kernels and bundles run on devices: two servers of ours, and what is asked of them."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.s_tir import Schedule

from benchmarks.faults.farm import KEY
from codesign import tune as module
from codesign.build import BuiltKernel, KernelSource
from codesign.compile import compile_model
from codesign.device import measure_key, this_device
from codesign.fleet import Fleet, Wanted
from codesign.fleet.identity import identify
from codesign.kernels import Kernel, kernel_hash
from codesign.measure import Rig
from codesign.measurement import Protocol
from codesign.records import Records
from codesign.runtime import Predictor
from codesign.worker import Failure, Reply
from targets.target import host

PROTOCOL = Protocol(repeats=3, min_block_ms=0.3, retries=0)


def product(m, k, n):
    """y[i, j] = sum_k x[i, k] w[k, j], not scheduled."""
    x, w = te.placeholder((m, k), name="x"), te.placeholder((k, n), name="w")
    r = te.reduce_axis((0, k), name="r")
    y = te.compute((m, n), lambda i, j: te.sum(x[i, r] * w[r, j], axis=r), name="y")
    return te.create_prim_func([x, w, y]).without_attr("global_symbol")


@pytest.fixture(scope="module")
def rig(farm):
    farm.start("two")
    fleet = Fleet(Wanted(farm.tracker, KEY))
    with Rig(host(), PROTOCOL, fleet) as rig:
        yield rig


@pytest.fixture(scope="module")
def kernels(rig):
    built = rig.build([KernelSource("product", product(17, 31 + i, 13)) for i in range(5)])
    assert all(isinstance(b, BuiltKernel) for b in built)
    return built


def test_there_are_as_many_members_as_devices(rig):
    assert rig.fleet.parallel == len(rig.fleet.members) == 2


@pytest.mark.parametrize("shape", [(3, 7, 13), (1, 1, 1), (17, 31, 5)])
def test_a_kernel_computes_there_what_numpy_does(rig, shape):
    (built,) = rig.build([KernelSource("odd", product(*shape))])
    m, k, n = shape
    rng = np.random.default_rng(sum(shape))
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    blobs = (x.tobytes(), w.tobytes())
    reply = rig.fleet.request("run_kernel", built.to_json(), blobs)
    assert isinstance(reply, Reply), reply
    (blob,) = reply.blobs
    found = np.frombuffer(blob, np.float32).reshape(m, n)
    np.testing.assert_allclose(found, x.astype(float) @ w.astype(float), rtol=1e-5, atol=1e-5)


def test_every_item_comes_back_once_and_says_who_measured_it(rig, kernels):
    items = [*kernels, Failure("error", "it does not compile"), *kernels, *kernels]
    asked = []

    def given():
        for kernel in items:
            asked.append(kernel)
            yield kernel, None

    timed = dict(rig.time_all(given()))
    assert sorted(timed) == list(range(len(items)))
    assert len(asked) == len(items)
    failed = timed.pop(5).measurement
    assert (failed.ok, failed.meta["stage"]) == (False, "build")
    assert all(t.measurement.ok for t in timed.values())
    assert all(t.measurement.ratio > 0 for t in timed.values())
    assert {t.measurement.meta["device"] for t in timed.values()} == {"one", "two"}
    assert not any(t.measurement.meta.get("emulated") for t in timed.values())
    first, second, third = ([timed[s + i] for i in range(5)] for s in (0, 6, 11))
    for a, b, c in zip(first, second, third, strict=True):
        assert a.agrees_with(b)
        assert a.agrees_with(c)
    assert set(rig.fleet.calibration.usual()) == {"one", "two"}


def test_what_a_device_computes_agrees_with_this_machine(rig, kernels):
    with Rig(host(), PROTOCOL) as here:
        for kernel in kernels[:2]:
            assert rig.time(kernel).agrees_with(here.time(kernel))


def test_nothing_to_time_is_nothing(rig):
    assert list(rig.time_all([])) == []


def test_a_bundle_computes_and_is_timed_there(rig, mlp, tmp_path):
    module, example = mlp
    bundle = compile_model((module, example), trials=1, output=tmp_path / "mlp").bundle
    sample = {"input": np.random.default_rng(4).standard_normal((3, 37)).astype(np.float32)}
    found = rig.run(bundle.path, sample)
    assert not isinstance(found, Failure), found
    with Predictor(bundle) as predictor:
        wanted = predictor.run(sample)
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6)
    missing = tmp_path / "no bundle"
    one, gone = rig.bundles([bundle.path, missing], bundle.path)
    assert one.ok
    assert one.seconds > 0
    assert one.ratio == pytest.approx(1.0)
    assert one.meta["device"] in ("one", "two")
    assert not gone.ok
    assert not rig.fleet.diary.incidents  # a wrong request is not put down to a device


def space(func, target, tiles=(1, 4, 16)):
    """The slow schedule first, then vectorised ones."""
    found = []
    # a schedule changes a function in place that nobody else holds, and its shared body with it
    func = func.with_attr("global_symbol", "main")
    for tile in tiles:
        schedule = Schedule(tvm.IRModule({"main": func}))
        i, j, k = schedule.get_loops(schedule.get_sblock("y"))
        at = schedule.sample_categorical([1, 4, 16], [0.4, 0.3, 0.3], [1, 4, 16].index(tile))
        outer, inner = schedule.split(j, [None, at])
        schedule.reorder(i, outer, k, inner)
        if tile > 1:
            schedule.vectorize(inner)
        found.append(schedule)
    return found


def test_tuning_there_is_kept_under_the_device_and_tries_nothing_twice(rig, tmp_path, monkeypatch):
    made = [Kernel(kernel_hash(f), f, f"p{n}", 1) for n in (64, 96) for f in [product(n, n, n)]]
    device = identify(rig.fleet).name
    assert device != this_device()
    monkeypatch.setattr(module, "_BATCH", 2)  # several, each built while the one before is timed
    timed = []
    time_one = rig.time
    monkeypatch.setattr(rig, "time", lambda k, **o: timed.append(k) or time_one(k, **o))
    with Records(tmp_path / "records.sqlite") as records:

        def tuned():
            folder = tmp_path / "traces"
            return module.tune(made, host(), device, rig, records, 3, folder, space=space)

        first = tuned()
        assert [t.made for t in first.values()] == [3, 3]
        assert all("vectorized" in t.func.script() for t in first.values())
        assert all(t.measurement.meta["device"] in ("one", "two") for t in first.values())
        for kernel in made:
            key = measure_key(kernel.hash, host(), device, PROTOCOL)
            trials = records.trials(key)
            assert len({t.schedule for t in trials}) == len(trials) == 3
            assert all(t.measurement.ok for t in trials)
            best = first[kernel.hash].measurement.meta["schedule"]
            assert best in {t.schedule for t in trials}
            here = measure_key(kernel.hash, host(), this_device(), PROTOCOL)
            assert records.trials(here) == []
            assert records.find_measurement(here) is None
        timed.clear()
        again = tuned()
        assert timed == []
        assert [(t.made, t.reused) for t in again.values()] == [(0, 3), (0, 3)]
        assert [t.measurement for t in again.values()] == [t.measurement for t in first.values()]
