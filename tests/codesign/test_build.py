"""Kernels and models built by a worker for a processor that is not this machine's."""

import platform

import pytest
from tvm import relax

from codesign.build import BuiltKernel, KernelSource, build_kernels, build_model
from codesign.worker import Failure, Worker
from targets.kernels.norm import layer_norm
from targets.kernels.spaces import schedules
from targets.target import find

AARCH64 = 183  # EM_AARCH64 in an ELF header
MACHINES = {"x86_64": 62, "aarch64": AARCH64}
ARM = find("aarch64-dotprod")


def model():
    """x + x, scheduled by nobody."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([2, 6], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(relax.op.add(x, x))
        bb.emit_func_output(out)
    return relax.transform.LegalizeOps()(bb.get())


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


@pytest.mark.usefixtures("cross_linker")
def test_kernels_for_another_processor(worker, machine_of, tmp_path):
    func = schedules(layer_norm((3, 16), 1e-5), ARM, limit=1)[0].mod["main"]
    (built,) = build_kernels([worker], [KernelSource("norm", func)], ARM, tmp_path)
    assert isinstance(built, BuiltKernel), built
    assert machine_of(built.library) == AARCH64
    assert f"__tvm_ffi_{built.symbol}".encode() in built.library.read_bytes()


@pytest.mark.usefixtures("cross_linker")
def test_a_model_for_another_processor(worker, machine_of, tmp_path):
    library = build_model(worker, model(), ARM, tmp_path / "model.so")
    assert not isinstance(library, Failure), library
    assert machine_of(library) == AARCH64


def test_a_model_for_this_machine(worker, machine_of, tmp_path):
    library = build_model(worker, model(), find("host"), tmp_path / "model.so")
    assert not isinstance(library, Failure), library
    assert machine_of(library) == MACHINES[platform.machine()]
