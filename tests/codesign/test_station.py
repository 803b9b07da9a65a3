"""Stations: this machine, and a device of this machine's kind over RPC with all that is compiled for it."""

from __future__ import annotations

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from benchmarks.faults.farm import KEY
from codesign.bundle import open_bundle
from codesign.compile import compile_model
from codesign.device import measure_key, this_device
from codesign.errors import UserError
from codesign.loop.workshop import twin_of
from codesign.measurement import Protocol
from codesign.records import Records
from codesign.runtime import Predictor
from codesign.station import EMULATED, Station, open_station
from codesign.where import Where
from codesign.worker import Failure
from targets.errors import TargetError
from targets.target import find, host


def test_this_machine_measures_what_it_is():
    with open_station(Where()) as station:
        assert station.target == host()
        assert station.here == station.target
        assert station.device == this_device()
        assert station.measures
        assert not station.emulated
        assert station.facts() == {"device": this_device(), "threads": 1}


def test_another_target_is_not_measured_here():
    with open_station(Where("raspberry-pi-4", 2)) as station:
        assert not station.measures
        assert station.target == find("raspberry-pi-4", 2)
        assert station.here == host(2)
        assert station.rig.fleet is None


def test_an_unknown_target_is_refused():
    with pytest.raises(TargetError, match="no-such"), open_station(Where("no-such")):
        pass


def test_an_emulator_is_measured_shortly():
    protocol = Protocol(**EMULATED)
    assert (protocol.repeats, protocol.retries) == (1, 0)
    told = type("Told", (), {"emulated": True})()
    assert Station(host(), "e", None, told).emulated
    assert not Station(host(), "e", None).emulated


def refused(where):
    began = time.monotonic()
    with pytest.raises(UserError) as error, open_station(where):
        pass
    return str(error.value), time.monotonic() - began


def test_without_a_tracker_or_a_device_it_is_told_what_to_do(farm):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    wheres = [
        Where(device="no-such-key", tracker=str(farm.tracker)),
        Where(device=KEY, tracker=nobody),
    ]
    with ThreadPoolExecutor(2) as both:
        (unknown, one), (silent, two) = both.map(refused, wheres)
    assert max(one, two) < 15
    assert "no device of 'no-such-key'" in unknown
    assert "knows no device of this key" in unknown
    assert nobody in silent
    assert f"codesign doctor --device no-such-key --tracker {farm.tracker}; then" in unknown
    assert f"keys there: {KEY}" in unknown
    assert "codesign devices tracker --port" in silent


def test_a_wrong_address_is_refused_at_once():
    with (
        pytest.raises(UserError, match="HOST:PORT"),
        open_station(Where(device=KEY, tracker="x:y")),
    ):
        pass


def test_code_that_the_device_cannot_run_is_refused(farm):
    foreign = "raspberry-pi-4" if host().architecture == "x86_64" else "x86-64-v3"
    text, _ = refused(Where(foreign, device=KEY, tracker=str(farm.tracker)))
    assert f"cannot run code for {foreign}" in text


def test_a_device_is_a_station(farm):
    said = []
    with open_station(Where(device=KEY, tracker=str(farm.tracker)), say=said.append) as station:
        assert station.target.architecture == host().architecture
        assert station.device.startswith(f"{KEY} over RPC: ")
        assert station.here == host()
        assert station.measures
        assert not station.emulated
        facts = json.loads(json.dumps(station.facts()))
    assert facts["emulated"] is False
    assert facts["supervision"]["incidents"] == []
    assert said == []


@pytest.fixture(scope="module")
def compiled(farm, mlp, tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / "mlp"
    return compile_model(mlp, device=KEY, tracker=str(farm.tracker), trials=2, output=path)


def test_a_model_compiled_for_a_device_is_measured_there(compiled):
    assert compiled.latency.ok
    assert 0 < compiled.latency.lo <= compiled.latency.seconds <= compiled.latency.hi
    assert compiled.latency.meta["device"] == "one"
    assert compiled.measured_on.startswith(f"{KEY} over RPC: ")
    plain = json.loads(json.dumps(compiled.as_dict()))
    assert plain["measured_on"] == compiled.measured_on
    assert plain["latency_ms"] > 0
    assert plain["emulated"] is False
    assert f" on {KEY} over RPC: " in str(compiled.table().title)
    assert sum(row["share"] for row in plain["kernels"]) == pytest.approx(1.0)


def test_the_bundle_and_its_twin_compute_what_pytorch_does(compiled, mlp):
    module, _ = mlp
    x = np.random.default_rng(8).standard_normal((3, 37)).astype(np.float32)
    wanted = module.double()(torch.from_numpy(x).double()).detach().numpy()
    module.float()
    for path in (compiled.bundle.path, twin_of(compiled.bundle.path)):
        with Predictor(open_bundle(path)) as predictor:
            (found,) = predictor.run({"input": x}).values()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_its_kernels_are_kept_under_the_device(compiled):
    with Records(compiled.bundle.path.parent / "records.sqlite") as records:
        target = find(compiled.bundle.manifest["target"]["name"])
        for kernel in compiled.bundle.manifest["extra"]["kernels"]:
            there = measure_key(kernel, target, compiled.measured_on, Protocol())
            found = records.find_measurement(there)
            assert found is not None
            assert found.meta["device"] == "one"
            here = measure_key(kernel, target, this_device(), Protocol())
            assert records.find_measurement(here) is None


def test_compiled_again_it_measures_no_kernel(farm, compiled, mlp):
    def counts():
        with Records(compiled.bundle.path.parent / "records.sqlite") as records:
            kernels = compiled.bundle.manifest["extra"]["kernels"]
            target = find(compiled.bundle.manifest["target"]["name"])
            keys = [measure_key(k, target, compiled.measured_on, Protocol()) for k in kernels]
            return [len(records.trials(key)) for key in keys]

    before = counts()
    assert sum(before) > 0
    again = compile_model(
        mlp, device=KEY, tracker=str(farm.tracker), trials=2, output=compiled.bundle.path
    )
    assert again.latency.ok
    assert counts() == before


def test_with_two_threads_it_computes_the_same(farm, mlp, tmp_path):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("there are no two processors")
    made = compile_model(
        mlp, device=KEY, tracker=str(farm.tracker), threads=2, trials=1, output=tmp_path / "two"
    )
    assert made.latency.ok, made.latency.error
    module, _ = mlp
    x = np.random.default_rng(9).standard_normal((3, 37)).astype(np.float32)
    with open_station(Where(threads=2, device=KEY, tracker=str(farm.tracker))) as station:
        found = station.rig.run(made.bundle.path, {"input": x})
    assert not isinstance(found, Failure), found
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(next(iter(found.values())), wanted, rtol=1e-4, atol=1e-5)
