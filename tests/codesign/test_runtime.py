"""Real bundles of a small model, run in this process and in a worker."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from tvm import relax, tirx

from codesign.build import build_model
from codesign.bundle import IO, BundleError, Contents, open_bundle, write_bundle
from codesign.errors import UserError
from codesign.measure import Protocol, Rig
from codesign.runtime import Predictor, RunError, Runtime, checked
from codesign.worker import Failure
from targets.cpu import this_processor
from targets.target import host

_RNG = np.random.default_rng(3)
_W = _RNG.standard_normal((6, 4)).astype(np.float32)
_B = _RNG.standard_normal(4).astype(np.float32)
_SPECS = [IO("x", (2, 6), "float32"), IO("n", (2, 1), "int64")]
_OUT = [IO("sum", (2, 4), "float32"), IO("relu", (2, 4), "float32")]


def _module(crash=False):
    """(x @ w + b + n, relu of it), or the same with a relu that aborts."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([2, 6], "float32"))
    n = relax.Var("n", relax.TensorType([2, 1], "int64"))
    w = relax.Var("w", relax.TensorType([6, 4], "float32"))
    b = relax.Var("b", relax.TensorType([4], "float32"))
    with bb.function("main", [x, n, w, b]):
        with bb.dataflow():
            y = bb.emit(relax.op.add(bb.emit(relax.op.matmul(x, w)), b))
            y = bb.emit(relax.op.add(y, bb.emit(relax.op.astype(n, "float32"))))
            out = bb.emit_output(relax.Tuple([y, bb.emit(relax.op.nn.relu(y))]))
        bb.emit_func_output(out)
    module = relax.transform.LegalizeOps()(bb.get())
    if crash:
        gv = module.get_global_var("relu")
        module[gv] = module[gv].with_body(tirx.Evaluate(tirx.call_extern("int32", "abort")))
    return module


@pytest.fixture(scope="module")
def rig():
    with Rig(host(), Protocol(repeats=5, min_block_ms=0.5)) as rig:
        yield rig


@pytest.fixture(scope="module")
def make(rig, tmp_path_factory):
    def make(name, weights, threads=1, crash=False):
        folder = tmp_path_factory.mktemp(name)
        library = build_model(rig.worker, _module(crash), host(threads), folder / "built.so")
        assert not isinstance(library, Failure), library
        contents = Contents("small", _SPECS, _OUT, host(threads))
        return write_bundle(folder / "bundle", library, weights, contents)

    return make


@pytest.fixture(scope="module")
def bundle(make):
    return make("one", {"w": _W, "b": _B})


@pytest.fixture(params=["in process", "in worker"])
def predictor(request, bundle, rig):
    if request.param == "in process":
        yield Runtime(bundle)
    else:
        with Predictor(bundle, rig.worker) as predictor:
            yield predictor


def _inputs(seed):
    rng = np.random.default_rng(seed)
    return {
        "n": rng.integers(-5, 5, (2, 1)),
        "x": rng.standard_normal((2, 6)).astype(np.float32),
    }


def _check(predictor, seed):
    inputs = _inputs(seed)
    exact = inputs["x"].astype(np.float64) @ _W + _B + inputs["n"]
    outputs = predictor.run(inputs)
    assert list(outputs) == ["sum", "relu"]
    np.testing.assert_allclose(outputs["sum"], exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs["relu"], np.maximum(exact, 0), rtol=1e-5, atol=1e-5)
    return outputs


def test_computes_what_the_model_computes_again_and_again(predictor):
    first = _check(predictor, 0)
    kept = first["sum"].copy()
    first["relu"][:] = 0  # they are the caller's
    for seed in range(1, 5):
        _check(predictor, seed)
    np.testing.assert_array_equal(first["sum"], kept)  # results are not overwritten later


def test_strided_inputs_and_lists_are_fine(predictor):
    wide = _RNG.standard_normal((4, 12)).astype(np.float32)
    x = wide[::2, ::2]
    outputs = predictor.run({"x": x, "n": np.zeros((2, 1), np.int64)})
    np.testing.assert_allclose(outputs["sum"], x.astype(np.float64) @ _W + _B, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x": None}, "missing ['x']"),
        ({"extra": np.zeros(1)}, "unknown ['extra']"),
        ({"x": np.zeros((2, 5), np.float32)}, "float32[2, 5]"),
        ({"x": np.zeros((1, 2, 6), np.float32)}, "float32[1, 2, 6]"),
        ({"x": np.zeros((2, 6))}, "float64[2, 6]"),
        ({"n": np.zeros((2, 1), np.int32)}, "int32[2, 1]"),
        ({"n": [["a"], ["b"]]}, "<U1[2, 1]"),
    ],
)
def test_wrong_inputs_are_told(predictor, change, told):
    inputs = {k: v for k, v in (_inputs(0) | change).items() if v is not None}
    with pytest.raises(UserError) as caught:
        predictor.run(inputs)
    assert told in caught.value.got
    assert caught.value.allowed
    _check(predictor, 1)  # and it still works


def test_a_bundle_opened_only_to_be_read_is_checked_before_it_runs(bundle, monkeypatch):
    read = open_bundle(bundle.path, to_run=False)
    nothing = dataclasses.replace(this_processor(), features=frozenset())
    monkeypatch.setattr("codesign.manifest.this_processor", lambda: nothing)
    with pytest.raises(BundleError, match="another CPU"):
        Runtime(read)


def test_example_inputs_fit(bundle):
    runtime = Runtime(bundle)
    assert len(checked(runtime.example(), runtime.inputs)) == 2


def test_a_bundle_that_crashes_is_an_error_here_and_the_next_run_works(make, bundle, rig):
    bad = make("bad", {"w": _W, "b": _B}, crash=True)
    with Predictor(bad, rig.worker) as predictor, pytest.raises(RunError, match="SIGABRT"):
        predictor.run(_inputs(0))
    with Predictor(bundle, rig.worker) as predictor:
        _check(predictor, 0)


def test_a_killed_worker_is_replaced(bundle):
    with Predictor(bundle) as predictor:
        _check(predictor, 0)
        os.kill(predictor._worker.pid, signal.SIGKILL)
        time.sleep(0.1)
        _check(predictor, 1)
        assert predictor._worker.generation == 2


def test_a_replaced_bundle_is_loaded_anew(make, rig):
    bundle = make("first", {"w": _W, "b": _B})
    with Predictor(bundle, rig.worker) as predictor:
        _check(predictor, 0)
        contents = Contents("small", _SPECS, _OUT, host())
        write_bundle(bundle.path, bundle.library, {"w": _W, "b": 0 * _B}, contents)
        inputs = _inputs(0)
        exact = inputs["x"].astype(np.float64) @ _W + inputs["n"]
        np.testing.assert_allclose(predictor.run(inputs)["sum"], exact, atol=1e-5)


def test_the_number_of_threads_is_that_of_the_bundle(make):
    bundle = make("two", {"w": _W, "b": _B}, threads=2)
    program = f"""
        import tvm
        from codesign.errors import UserError
        from codesign.runtime import Runtime, use_threads
        count = tvm.get_global_func("runtime.NumThreads")
        Runtime({str(bundle.path)!r})
        print(count())
        use_threads(1)
        print(count())
        try:
            use_threads(3)
        except UserError as error:
            print(error.next)
    """
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    env.pop("TVM_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, env=env, check=True,
    )  # fmt: skip
    two, one, told = done.stdout.splitlines()
    assert (two, one) == ("2", "1")
    assert "TVM_NUM_THREADS=3" in told


def test_a_worker_with_other_threads_is_refused(make, rig):
    bundle = make("two again", {"w": _W, "b": _B}, threads=2)
    with pytest.raises(ValueError, match="threads"):
        Predictor(bundle, rig.worker)
    with Predictor(bundle) as predictor:
        _check(predictor, 0)


def test_bundles_are_timed_and_the_bad_ones_told(make, bundle, rig, tmp_path):
    crashing = make("crashing", {"w": _W, "b": _B}, crash=True)
    paths = [bundle.path, crashing.path, tmp_path / "missing", bundle.path]
    first, crashed, missing, twice = rig.bundles(paths, bundle.path)
    assert first.ok
    assert first.ratio == 1.0
    assert len(first.samples) == 5
    assert first.lo <= first.seconds <= first.hi < 1e-2
    assert twice.samples == first.samples
    assert "SIGABRT" in crashed.error
    assert "not a bundle" in missing.error
    other = make("other", {"w": _W, "b": _B})
    assert 0.2 < rig.bundles([other.path], bundle.path, inputs=_inputs(0))[0].ratio < 5


def test_inputs_that_do_not_fit_are_a_failed_measurement(bundle, rig):
    (measurement,) = rig.bundles([bundle.path], None, inputs={"x": np.zeros(3)})
    assert "wrong names" in measurement.error
