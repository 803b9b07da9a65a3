"""Libraries of ours on emulated ARM devices: uploaded, loaded and right, over the tracker."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tvm
from tvm import relax

from codesign.devices import emulated
from codesign.devices.emulated import emulated_devices, ready_devices
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address
from codesign.errors import UserError
from targets.errors import CodesignError
from targets.kernels.linear_int8 import dense_int8, pack_int8
from targets.kernels.spaces import schedules
from targets.link import Linker
from targets.target import find

LINKERS = ("ld.lld", "aarch64-linux-gnu-gcc")
SECONDS = 90

# One session in a process of its own, which can be killed: TVM's client waits for ever for some servers.
CLIENT = """
import sys
import numpy as np
import tvm
from tvm import relax, rpc

tracker, key, library, kind, arguments, result = sys.argv[1:]
host, port = tracker.split(":")
session = rpc.connect_tracker(host, int(port)).request(key, session_timeout=60)
session.upload(library, target="library.so")
module, device = session.load_module("library.so"), session.cpu(0)
stored = np.load(arguments)
given = [tvm.runtime.tensor(stored[f"arr_{i}"], device) for i in range(len(stored.files))]
if kind == "kernel":
    module["main"](*given)
    found = given[-1]
else:
    found = relax.VirtualMachine(module, device)["main"](*given)
np.save(result, found.numpy())
"""


@pytest.fixture(scope="session")
def linker():
    for name in LINKERS:
        if path := shutil.which(name):
            return Linker(name, path)
    pytest.skip(f"none of {', '.join(LINKERS)}")


def run(fleet, folder, library, kind, arguments):
    """The last argument after one call of a kernel, or what a model gives."""
    np.savez(folder / "arguments.npz", *arguments)
    words = [fleet.tracker, fleet.key, library, kind, folder / "arguments.npz", folder / "y.npy"]
    command = [sys.executable, "-c", CLIENT, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return np.load(folder / "y.npy")


def int8_kernel(name, folder, linker, seed):
    """A library with an int8 layer for a target, its arguments and what comes out, exactly."""
    target, rng = find(name), np.random.default_rng(seed)
    k, n = 37, 21
    q = rng.integers(0, 256, (13, 40), dtype=np.uint8)
    w = rng.integers(-128, 128, (n, k), dtype=np.int8)
    q[0], w[0] = 255, -128
    packed, total = pack_int8(w, target.block)
    ones, zero = np.ones(13, np.float32), rng.integers(0, 256, 13).astype(np.int32)
    given = [q, ones, zero, packed, np.ones(n, np.float32), total]
    scheduled = schedules(dense_int8((13,), k, n, target.block), target, limit=1)[0].mod
    library = folder / "kernel.so"
    tvm.compile(scheduled, target=target.tvm()).mod.export_library(str(library), fcompile=linker)
    wanted = (q[:, :k].astype(np.int64) - zero[:, None]) @ w.T.astype(np.int64)
    return library, [*given, np.full((13, n), np.nan, np.float32)], wanted


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_kernel_for_dot_products_is_exact(emulated_fleet, tmp_path, linker, seed):
    library, arguments, wanted = int8_kernel("aarch64-dotprod", tmp_path, linker, seed)
    y = run(emulated_fleet, tmp_path, library, "kernel", arguments)
    np.testing.assert_array_equal(y, wanted)


@pytest.mark.slow
def test_a_model_runs_in_the_virtual_machine(emulated_fleet, tmp_path, linker):
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([3, 17], "float32"))
    w = relax.Var("w", relax.TensorType([17, 5], "float32"))
    with bb.function("main", [x, w]):
        with bb.dataflow():
            product = bb.emit(relax.op.matmul(x, w))
            y = bb.emit_output(bb.emit(relax.op.nn.relu(product)))
        bb.emit_func_output(y)
    library = tmp_path / "model.so"
    built = relax.build(bb.get(), target=find("aarch64-dotprod").tvm())
    built.export_library(str(library), fcompile=linker)
    rng = np.random.default_rng(0)
    arguments = [rng.standard_normal(s).astype(np.float32) for s in ((3, 17), (17, 5))]
    found = run(emulated_fleet, tmp_path, library, "model", arguments)
    a, b = (array.astype(np.float64) for array in arguments)
    np.testing.assert_allclose(found, np.maximum(a @ b, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_an_instruction_that_a_processor_lacks_costs_one_session(emulated_root, tmp_path, linker):
    """Cortex-A76 has dot products, but no usdot: one library runs, the other ends its session alone."""
    fine, arguments, wanted = int8_kernel("aarch64-dotprod", tmp_path, linker, 0)
    (tmp_path / "i8mm").mkdir()
    bad, others, _ = int8_kernel("aarch64-i8mm", tmp_path / "i8mm", linker, 0)
    with emulated_devices(1, "a76", root=emulated_root, processor="cortex-a76") as fleet:
        with pytest.raises(RuntimeError):
            run(fleet, tmp_path, bad, "kernel", others)
        y = run(fleet, tmp_path, fine, "kernel", arguments)
        assert "ILL" in fleet.devices[0].last_words()
    np.testing.assert_array_equal(y, wanted)


@pytest.mark.slow
def test_devices_end_with_the_context_and_with_their_process(emulated_root, tmp_path):
    with emulated_devices(1, root=emulated_root, folder=tmp_path / "kept") as fleet:
        process = fleet.devices[0].process
        assert process.poll() is None
    assert process.poll() is not None
    assert "ready" in (tmp_path / "kept" / "emulated-1.log").read_text()
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv: what is killed leaves its devices")
    program = (
        "import time\nfrom codesign.devices.emulated import emulated_devices\n"
        "with emulated_devices(1) as fleet:\n"
        "    print(fleet.devices[0].process.pid, flush=True)\n    time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait(10)
    assert within(20, lambda: not alive(pid))


def within(seconds, true):
    until = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def alive(pid):
    """Whether a process runs: one that has ended and is not yet collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_the_command_says_where_they_are_and_ends_on_a_signal(emulated_root):
    words = ["devices", "emulate", "arm64", "--port", "0", "--key", "mine"]
    command = [sys.executable, "-m", "codesign", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[0].startswith("emulated-1  127.0.0.1:")
        assert "key mine; emulated" in lines[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path, fake_root):
    fake_root.says = "echo no such option; exit 3"
    with (
        pytest.raises(CodesignError, match="ended with status 3") as caught,
        emulated_devices(1, root=fake_root, folder=tmp_path / "work"),
    ):
        pass
    assert caught.value.got == "no such option"


def test_a_server_that_never_comes_is_ended(tmp_path, fake_root, monkeypatch):
    fake_root.says = f"echo $$ > {tmp_path}/pid; exec sleep 60"
    monkeypatch.setattr(emulated, "_START_SECONDS", 0.5)
    with (
        pytest.raises(CodesignError, match="emulated-1 not ready"),
        emulated_devices(1, root=fake_root, folder=tmp_path / "work"),
    ):
        pass
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.fixture
def fake_root():
    """Instead of a folder: servers are what its shell script does."""

    class Root:
        says = "exit 0"

        def command(self, args, *, processor):
            return ["sh", "-c", self.says]

    return Root()


def test_no_tracker_is_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = Address(*free.getsockname())
    with pytest.raises(UserError, match="no tracker answers") as caught:
        ready_devices(place)
    assert "codesign devices tracker" in caught.value.next


@pytest.mark.parametrize("given", ["", "host:port:", "localhost:99999"])
def test_an_address_that_is_none_is_refused(given, fake_root, tmp_path):
    with (
        pytest.raises(UserError, match="no address of a tracker"),
        emulated_devices(1, tracker=given, root=fake_root, folder=tmp_path),
    ):
        pass


def test_no_devices_are_refused(fake_root):
    with pytest.raises(UserError, match="no such number"), emulated_devices(0, root=fake_root):
        pass


def test_a_tracker_without_servers_has_none_ready():
    with TrackerThread() as tracker:
        assert ready_devices(tracker.address) == set()
