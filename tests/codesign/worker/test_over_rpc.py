"""A device as a worker's place, with a real server: what is sent, what is computed, what is left behind."""

from __future__ import annotations

import faulthandler
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.faults.farm import KEY
from codesign.build import KernelSource
from codesign.compile import compile_model
from codesign.devices.client import TrackerClient
from codesign.fleet.member import Member, Wanted
from codesign.fleet.tracker import queue_of
from codesign.measure import Rig
from codesign.measurement import Protocol
from codesign.reference_kernel import reference_kernel
from codesign.runtime import Predictor
from codesign.tensors import pack, unpack
from codesign.worker import Failure, Worker, over_rpc
from codesign.worker.over_rpc import DeviceError, OverRpc, RemoteProgram
from targets.target import host


@pytest.fixture(autouse=True)
def no_hang():
    """TVM's client may wait for ever, out of reach of any time-out in Python."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def params(farm, **others):
    """What a session with the farm's device is opened with; it is handed out for that."""
    with TrackerClient(farm.tracker) as client:
        address, key = client.request(KEY, 30)
    return {
        "address": [address.host, address.port], "key": key, "seconds": 120, "threads": 1,
        "cpus": "", "kind": "llvm", **others,
    }  # fmt: skip


@pytest.fixture
def there(farm):
    """An open session in this process."""
    session = OverRpc(params(farm))
    yield session
    session.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The reference kernel, built for this machine under a content of its own."""
    path = tmp_path_factory.mktemp("library") / "reference.so"
    with Rig(host(), Protocol()) as rig:
        (built,) = rig.build([KernelSource("reference", reference_kernel())])
        shutil.copy(built.library, path)
        return str(path), built.symbol, built.args


@pytest.fixture(scope="module")
def bundle(mlp, tmp_path_factory):
    return compile_model(mlp, trials=1, output=tmp_path_factory.mktemp("mlp") / "dense").bundle


@pytest.fixture(scope="module")
def other(mlp, tmp_path_factory):
    """The same layers and one operator more: another library with the same weights."""
    module, example = mlp
    longer = torch.nn.Sequential(*module, torch.nn.Tanh()).eval()
    path = tmp_path_factory.mktemp("other") / "dense"
    return compile_model((longer, example), trials=1, output=path).bundle


def sample(seed=0):
    return {"input": np.random.default_rng(seed).standard_normal((3, 37)).astype(np.float32)}


def kept(bundle):
    """Bytes of the weights that are worth keeping on the device."""
    large = [w for w in bundle.weights().values() if w.nbytes >= over_rpc._WORTH_KEEPING]
    assert large
    return sum(w.nbytes for w in large)


def test_it_tells_who_it_is(there):
    assert there.told["serial"] == "one"
    assert there.told["stock"] is False
    assert there.told["cores"] >= 1
    story = there.story()
    assert story["serial"] == "one"
    assert story["emulated"] is False
    assert "memory_free_bytes" in story["after"]
    assert there.meter().others() >= 0
    assert "memory_free_bytes" in there.story()["before"]


def test_what_it_has_not_is_none(there):
    assert there.function("codesign.no.such.function") is None
    assert there.ask("no.such.thing") is None
    assert there.blame() == "error"  # the device is well


def test_processors_are_pinned(farm):
    session = OverRpc(params(farm, cpus="0"))
    try:
        assert "0" in str(session.told["pinned"])
    finally:
        session.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_has_the_threads_that_it_asked_for(farm, threads):
    if (os.cpu_count() or 1) < threads:
        pytest.skip(f"there are no {threads} processors")
    session = OverRpc(params(farm, threads=threads))
    try:
        assert int(session.function("runtime.NumThreads")()) == threads
    finally:
        session.close()


def test_more_threads_than_a_device_has_are_refused(farm):
    wanted = params(farm, threads=4096)
    with Worker() as worker:
        reply = worker.request("open_session", wanted)
    assert isinstance(reply, Failure)
    assert reply.kind == "threads"
    assert "threads, not 4096" in reply.text


def test_a_kernel_computes_there_what_numpy_does(there, library):
    path, symbol, args = library
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(a.shape).astype(np.float32) for a in args if not a.output)
    tensors = [there.tensor(a) for a in (x, w, np.full(args[2].shape, np.nan, np.float32))]
    there.library(path)[symbol](*tensors)
    wanted = x.astype(np.float64) @ w.transpose(1, 0, 2).reshape(w.shape[1], -1).astype(np.float64)
    np.testing.assert_allclose(tensors[2].numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_a_library_is_sent_once_in_a_session_and_never_again_in_the_next(farm, library, tmp_path):
    path = tmp_path / "fresh.so"
    path.write_bytes(Path(library[0]).read_bytes() + b"\0" * 17)  # a content that nobody sent yet
    copy = tmp_path / "copy.so"
    shutil.copy(path, copy)
    sent = []
    for _ in range(2):
        session = OverRpc(params(farm))
        try:
            first = session.library(str(path))
            assert session.library(str(path)) is first
            session.library(str(copy))
            assert first[library[1]] is not None
            sent.append(session.sent)
        finally:
            session.close()
    assert sent == [path.stat().st_size, 0]


def test_a_bundle_computes_there_what_it_computes_here(there, bundle):
    program = RemoteProgram(there, str(bundle.path))
    with Predictor(bundle) as predictor:
        for seed in range(3):
            mine, theirs = predictor.run(sample(seed)), program.run(sample(seed))
            assert list(mine) == list(theirs)
            for name, values in mine.items():
                assert theirs[name].shape == values.shape
                np.testing.assert_allclose(theirs[name], values, rtol=1e-6, atol=1e-6)


def test_weights_that_bundles_share_are_sent_once(there, bundle, other):
    RemoteProgram(there, str(bundle.path))
    first = there.sent
    assert first >= kept(bundle)
    RemoteProgram(there, str(bundle.path))
    assert there.sent == first
    RemoteProgram(there, str(other.path))
    assert there.sent - first in (
        0,
        other.library.stat().st_size,
    )  # 0 if sent in an earlier session
    names = set(there._kept)
    assert len(names) == len([w for w in bundle.weights().values() if w.nbytes >= 4096])


def test_a_tensor_is_known_by_its_content_shape_and_type(there):
    values = np.arange(2048, dtype=np.float32)
    one = there.tensor(values)
    assert there.tensor(values.copy()) is one
    assert there.sent == values.nbytes
    others = [values.reshape(2, 1024), values.view(np.int32), values + 1]
    for number, other in enumerate(others, 2):
        sent = there.tensor(other)
        assert sent is not one
        np.testing.assert_array_equal(sent.numpy(), other)
        assert there.sent == number * values.nbytes
    small = np.arange(4, dtype=np.float32)
    assert there.tensor(small) is not there.tensor(small)
    assert there.sent == 4 * values.nbytes


def test_what_is_kept_there_is_bounded(there, monkeypatch):
    monkeypatch.setattr(over_rpc, "_MOST_BYTES", 20_000)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(2048).astype(np.float32) for _ in range(5)]
    for array in [*arrays, *arrays]:
        np.testing.assert_array_equal(there.tensor(array).numpy(), array)
        assert sum(t.numpy().nbytes for t in there._kept.values()) <= 20_000


def test_blocks_are_timed_by_the_device(there, bundle):
    program = RemoteProgram(there, str(bundle.path))
    inputs = program.example()
    seconds = [program.block(inputs, calls) for calls in (1, 3, 10)]
    assert all(0 < s < 1 and math.isfinite(s) for s in seconds)
    np.testing.assert_array_equal(  # and it still computes
        next(iter(program.run(inputs).values())), next(iter(program.run(inputs).values()))
    )


def test_a_bundle_that_was_replaced_at_its_path_is_loaded_anew(there, bundle, other, tmp_path):
    path = tmp_path / "bundle"
    for source in (bundle, other):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source.path, path)
        found = RemoteProgram(there, str(path)).run(sample())
        with Predictor(source) as predictor:
            wanted = predictor.run(sample())
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6)


def test_a_library_that_was_replaced_at_its_path_is_sent_anew(there, library, tmp_path):
    path = tmp_path / "kernel.so"
    content = Path(library[0]).read_bytes()
    path.write_bytes(content)
    first = there.library(str(path))
    new = tmp_path / "new.so"
    new.write_bytes(content + b"\0" * 33)
    new.replace(path)
    assert there.library(str(path)) is not first


def test_what_is_no_library_is_told_as_the_device_s(there, tmp_path):
    path = tmp_path / "text.so"
    path.write_bytes(b"no library " * 7)
    with pytest.raises(DeviceError, match=r"cannot load text\.so"):
        there.library(str(path))
    assert there.blame() == "error"


def test_after_its_end_the_device_is_to_blame(farm):
    session = OverRpc(params(farm))
    session.close()
    session.close()  # twice does no harm
    assert session.blame() == "device"


def test_without_a_session_there_is_nobody_to_ask():
    with pytest.raises(DeviceError, match="no session is open"):
        over_rpc.ask_device({"what": "device.info"}, ())
    assert over_rpc.close_session({}, ()) == (None, [])


def wait_until(holds):
    until = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_one_worker_has_one_session_after_the_other(farm, bundle):
    header, blobs = pack(sample())
    run = {"path": str(bundle.path), "inputs": header, "fill": False}
    with Predictor(bundle) as predictor:
        wanted = predictor.run(sample())
    member = Member(Wanted(farm.tracker, KEY))
    try:
        pids = []
        for _ in range(3):
            assert member.ready(30) is None
            assert member.holds
            assert member.device == "one"
            wait_until(lambda: queue_of(farm.tracker, KEY).free == 0)
            reply = member.worker.request("run_bundle", run, blobs)
            assert not isinstance(reply, Failure), reply
            for name, values in unpack(reply.result, reply.blobs).items():
                np.testing.assert_allclose(values, wanted[name], rtol=1e-6, atol=1e-6)
            pids.append(member.worker.pid)
            member.give_back()
            assert not member.holds
            wait_until(lambda: queue_of(farm.tracker, KEY).free == 1)
        assert len(set(pids)) == 1
        reply = member.worker.request("run_bundle", run, blobs)  # here again
        assert not isinstance(reply, Failure), reply
    finally:
        member.drop()


def test_a_worker_that_dies_gives_the_device_back(farm):
    member = Member(Wanted(farm.tracker, KEY))
    assert member.ready(30) is None
    wait_until(lambda: queue_of(farm.tracker, KEY).free == 0)
    member.drop()
    assert not member.holds
    wait_until(lambda: queue_of(farm.tracker, KEY).free == 1)


def test_a_device_that_is_not_wanted_is_left_alone(farm):
    member = Member(Wanted(farm.tracker, KEY))
    try:
        failure = member.ready(30, wanted=lambda address: False)
        assert failure is not None
        assert failure.kind == "resting"
        assert not member.holds
    finally:
        member.drop()
    wait_until(lambda: queue_of(farm.tracker, KEY).free == 1)


def test_nobody_is_waited_for_beyond_the_time(farm):
    member = Member(Wanted(farm.tracker, "nobody"))
    try:
        began = time.monotonic()
        failure = member.ready(1.0)
        assert failure is not None
        assert failure.kind == "absent"
        assert time.monotonic() - began < 30
    finally:
        member.drop()
