"""Building and timing kernels in a real worker, and kernels that kill it."""

import json
import math

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from codesign.build import BuiltKernel, KernelSource, build_kernels, target_json
from codesign.measure import Measurement, Protocol, Rig, TimedKernel, measure_kernels
from codesign.reference_kernel import INNER, OUTPUTS, ROWS, reference_kernel
from codesign.tensors import pack
from codesign.worker import Failure, Reply
from targets.target import host

_QUICK = Protocol(repeats=4, min_block_ms=0.5)


@pytest.fixture(scope="module")
def rig():
    with Rig(host(), _QUICK) as rig:
        rig.worker.start()
        yield rig


def _kernel(n, offset=0.0, body=None):
    """y = x + offset over n values, or a kernel with any other body."""
    x = te.placeholder((n,), name="x")
    func = te.create_prim_func([x, te.compute((n,), lambda i: x[i] + offset, name="y")])
    func = func.without_attr("global_symbol")
    return func if body is None else func.with_body(body)


def _call(name, *args):
    return tirx.Evaluate(tirx.call_extern("int32", name, *args))


def _out_of_bounds(n=4):
    far = tirx.const(1 << 40, "int64")
    x = te.placeholder((n,), name="x")
    y = te.compute((n,), lambda i: x[i.astype("int64") + far], name="y")
    return te.create_prim_func([x, y]).without_attr("global_symbol")


def test_ir_survives_json():
    func = reference_kernel()
    again = tvm.ir.load_json(tvm.ir.save_json(func))
    tvm.ir.assert_structural_equal(func, again)


def test_target_survives_json():
    target = host(2)
    assert str(tvm.target.Target(json.loads(json.dumps(target_json(target))))) == str(target.tvm())


def test_one_thread_on_every_processor_by_default(rig):
    assert rig.worker.request("ping").result["threads"] == 1


def test_times_in_order_and_plausible(rig):
    sources = [KernelSource(f"add {n}", _kernel(n)) for n in (1 << 19, 1 << 10)]
    long, short = (rig.time(b).measurement for b in rig.build(sources))
    for m in (long, short):
        assert m.ok, m.error
        assert 0 < m.lo <= m.seconds <= m.hi
        assert len(m.samples) == _QUICK.repeats
        assert m.ratio > 0
        assert m.load >= 0
    assert long.seconds > 20 * short.seconds
    assert long.seconds < 0.1


def test_the_reference_kernel_is_right_and_its_ratio_to_itself_is_one(rig):
    built = rig.reference()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, INNER)).astype(np.float32)
    w = rng.standard_normal((OUTPUTS, INNER)).astype(np.float32)
    packed = w.reshape(-1, built.args[1].shape[2], INNER).transpose(0, 2, 1)
    reply = rig.worker.request("run_kernel", built.to_json(), pack({"x": x, "w": packed})[1])
    y = np.frombuffer(reply.blobs[0], np.float32).reshape(ROWS, OUTPUTS)
    np.testing.assert_allclose(y, x.astype(np.float64) @ w.T.astype(np.float64), atol=1e-3)
    assert 0.1 < rig.time(built).measurement.ratio < 10


def test_probes_tell_schedules_of_the_same_kernel_from_wrong_ones(rig):
    right, same, wrong = (
        rig.time(b) for b in rig.build([KernelSource("k", _kernel(99, o)) for o in (1.0, 1.0, 1.1)])
    )
    assert same.agrees_with(right)
    assert not wrong.agrees_with(right)
    nothing = rig.time(rig.build([KernelSource("no", _kernel(99, body=_call("getpid")))])[0])
    assert not nothing.agrees_with(right)  # outputs that nobody writes are NaN


def test_probes_compare_integers_and_missing_values():
    def timed(*values):
        return TimedKernel(Measurement(seconds=1.0), (values,))

    assert timed(1.0, None).agrees_with(timed(1.0, None))
    assert not timed(1.0, None).agrees_with(timed(1.0, 2.0))
    assert not timed(1.0).agrees_with(timed(1.0, 2.0))
    assert timed(1000.0, 0.5).agrees_with(timed(1000.0, 0.0))  # relative to the largest


def test_index_arguments_are_valid(rig):
    x = te.placeholder((64,), name="x")
    index = te.placeholder((1000,), "int32", name="i")
    y = te.compute((1000,), lambda i: x[index[i]], name="y")
    func = te.create_prim_func([x, index, y]).without_attr("global_symbol")
    timed = rig.time(rig.build([KernelSource("gather", func)])[0])
    assert timed.measurement.ok
    assert None not in timed.probes[0]


def test_kernels_that_crash_or_hang_are_measurements_and_harm_no_other(rig, monkeypatch):
    bad = {
        "SIGABRT": _kernel(4, body=_call("abort")),
        "SIGSEGV": _out_of_bounds(),
        "no answer": _kernel(4, body=_call("sleep", 1000)),
    }
    built = rig.build([KernelSource(k, f) for k, f in bad.items()])
    for (told, _), kernel in zip(bad.items(), built, strict=True):
        rig.worker.start()  # so that the short deadline is not spent on starting
        monkeypatch.setattr(rig, "kernel_deadline", 1.0 if told == "no answer" else 30.0)
        measurement = rig.time(kernel).measurement
        assert told in measurement.error
        assert math.isnan(measurement.seconds)
        assert measurement.meta["stage"] == "run"
    monkeypatch.undo()
    assert rig.time(rig.build([KernelSource("after", _kernel(64))])[0]).measurement.ok


def test_a_kernel_that_prints_does_no_harm(rig):
    built = rig.build([KernelSource("puts", _kernel(4, body=_call("puts", "CdW1 noise")))])[0]
    assert rig.time(built).measurement.ok


def test_a_kernel_that_does_not_compile_is_told(rig):
    good, bad = rig.build(
        [KernelSource("good", _kernel(4)), KernelSource("bad", _kernel(4, body=_unbound()))]
    )
    assert isinstance(good, BuiltKernel)
    assert isinstance(bad, Failure)
    assert rig.time(bad).measurement.meta["stage"] == "build"


def _unbound():
    """A body that uses a variable nobody defines."""
    return tirx.Evaluate(tirx.call_extern("int32", "abs", tirx.Var("nobody", "int32")))


class _FlakyWorker:
    """Dies whenever a marked kernel is among those to build."""

    def __init__(self):
        self.requests = 0

    def start(self):
        return None

    def request(self, op, params, blobs, deadline):
        self.requests += 1
        if any(b"poison" in bytes(b) for b in blobs):
            return Failure("crash", "the compiler died")
        return Reply({"errors": {}})


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_kernel_that_kills_the_compiler_is_found(tmp_path, count):
    funcs = [_kernel(8) for _ in range(20)]
    funcs[13] = funcs[13].with_attr("poison", "poison")
    workers = [_FlakyWorker() for _ in range(count)]
    sources = [KernelSource(str(i), f) for i, f in enumerate(funcs)]
    results = build_kernels(workers, sources, host(), tmp_path)
    assert [i for i, r in enumerate(results) if isinstance(r, Failure)] == [13]
    assert sum(w.requests for w in workers) <= max(2, count) + 2 * 4
    assert all(w.requests for w in workers)
    names = [r.symbol.split("_")[-1] for r in results if isinstance(r, BuiltKernel)]
    assert names == [str(i) for i in range(20) if i != 13]
    assert build_kernels(workers, [], host(), tmp_path) == []
    assert len({(r.library, r.symbol) for r in results if isinstance(r, BuiltKernel)}) == 19


def test_a_restless_machine_is_timed_again(rig, monkeypatch):
    quiet, restless = [1.0] * 6, [1.0, *[5.0] * 5]
    answers = [restless, quiet, restless]

    def answer(op, params, blobs=(), deadline=0.0):
        samples = answers.pop(0)
        return Reply(
            {
                "samples": samples,
                "reference": [1.0] * 7,
                "load": 0.0,
                "calls": 1,
                "probes": [],
                "story": {},
            }
        )

    built = rig.reference()
    monkeypatch.setattr(rig.worker, "request", answer)
    assert rig.time(built).measurement.unrest == 0
    assert len(answers) == 1  # the third was not asked for
    answers[:] = [restless, restless, restless, quiet]
    assert rig.time(built).measurement.unrest > 1
    assert len(answers) == 1  # nor is it asked for ever


def test_a_slow_kernel_gets_one_block_when_told_to_give_up(rig):
    built = rig.build([KernelSource("slow", _kernel(1 << 18))])[0]
    assert len(rig.time(built, give_up=1e-9).measurement.samples) == 1


def test_threads_and_affinity_are_those_of_the_protocol():
    protocol = Protocol(threads=2, affinity=(0,), repeats=3, min_block_ms=0.3)
    with Rig(host(2), protocol) as rig:
        state = rig.worker.request("ping").result
        assert rig.time(rig.reference()).measurement.ok
    assert state["threads"] == 2
    assert state["processors"] == [0]
    with pytest.raises(ValueError):
        Rig(host(2), Protocol(threads=1))


def test_measure_kernels_needs_nothing_else():
    (measurement,) = measure_kernels([KernelSource("k", _kernel(32))], host(), _QUICK)
    assert measurement.ok
