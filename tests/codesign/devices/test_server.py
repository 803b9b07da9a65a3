"""A device's server with TVM's own client: sessions, what they may do, and how they end."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tvm
from tvm import rpc, te

from codesign.devices import wire
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address

if TYPE_CHECKING:
    from conftest import Process, Starter

MB = 1_000_000
SECONDS = 20.0
CRASHING = r"""
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#define FUNCTION(name) int __tvm_ffi_##name(void *self, const void *args, int count, void *result)
FUNCTION(crash) { *(volatile int *)0 = 1; return 0; }
FUNCTION(leave) { _exit(3); }
FUNCTION(hang) { for (;;) pause(); }
FUNCTION(daemon) { /* a grandchild in a session of its own, deaf to SIGTERM */
  int ends[2];
  pid_t pid = 0;
  if (pipe(ends)) return -1;
  if (fork() == 0) {
    setsid();
    pid = fork();
    if (pid == 0) {
      signal(SIGTERM, SIG_IGN);
      for (;;) pause();
    }
    _exit(write(ends[1], &pid, sizeof pid) != sizeof pid);
  }
  if (read(ends[0], &pid, sizeof pid) != sizeof pid) return -1;
  ((int32_t *)result)[0] = 1; /* an integer */
  ((int64_t *)result)[1] = pid;
  return 0;
}
FUNCTION(fill) { /* 8 MB into one file; how many bytes went in */
  FILE *file = fopen("long", "wb");
  int64_t total = 0;
  char block[4096] = {0};
  while (file && total < 8000000 && fwrite(block, 1, 4096, file) == 4096 && !fflush(file)) total += 4096;
  ((int32_t *)result)[0] = 1;
  ((int64_t *)result)[1] = total;
  return 0;
}
"""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to build a bad kernel")


@pytest.fixture(scope="module")
def server(start: Starter) -> Process:
    """One server for all tests that leave it as it was."""
    return start("shared", "--max-upload-mb", "2", "--cache-mb", "1", "--name", "under-test")


@pytest.fixture(scope="module")
def bad_library(tmp_path_factory: pytest.TempPathFactory) -> bytearray:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "bad.c").write_text(CRASHING)
    command = ["gcc", "-shared", "-fPIC", "-w", "-o", "bad.so", "bad.c"]
    subprocess.run(command, cwd=folder, check=True, timeout=60)
    return bytearray((folder / "bad.so").read_bytes())


Client = Callable[..., rpc.RPCSession]


def _ask(at: Address, key: str, timeout: float = 30) -> rpc.RPCSession:
    tracker = rpc.connect_tracker(at.host, at.port)
    tracker._sock.settimeout(SECONDS)
    try:
        return tracker.request(key, session_timeout=timeout, max_retry=1)
    finally:
        tracker.close()


@pytest.fixture
def client(tracker: TrackerThread) -> Iterator[Client]:
    """Asks the tracker for a session of a key; whoever asks again has dropped the one before."""

    def ask(key: str = "shared", timeout: float = 30) -> rpc.RPCSession:
        gc.collect()
        return _ask(tracker.address, key, timeout)

    yield ask
    gc.collect()


def _told(session: rpc.RPCSession, name: str) -> Any:
    return json.loads(session.get_function(f"codesign.device.{name}")())


def _health(status: Callable[[], dict[str, Any]], key: str) -> dict[str, Any]:
    return next(s for s in status()["servers"] if s["key"] == key)["health"]


def _last_exit(status: Callable[[], dict[str, Any]], key: str) -> str:
    """What the tracker tells of the end of a device's last session."""
    return (_health(status, key)["last_exit"] or {"text": ""})["text"]


def _eventually(condition: Callable[[], Any], seconds: float = SECONDS) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        # what is not there yet raises
        with contextlib.suppress(StopIteration, LookupError, TypeError):
            if condition():
                return True
        time.sleep(0.05)
    return False


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = Path("/proc", name, "stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found += _tree(int(name))
    return found


ROWS, INNER, OUTPUTS = 5, 19, 11


@functools.cache
def _product() -> bytes:
    """A product of 5x19 by 11x19 as a library."""
    k = te.reduce_axis((0, INNER), name="k")
    x = te.placeholder((ROWS, INNER), name="x")
    w = te.placeholder((OUTPUTS, INNER), name="w")
    y = te.compute((ROWS, OUTPUTS), lambda m, n: te.sum(x[m, k] * w[n, k], axis=k), name="y")
    module = tvm.IRModule({"main": te.create_prim_func([x, w, y])})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "product.so")
        tvm.compile(module, target={"kind": "llvm"}).export_library(str(path))
        return path.read_bytes()


def _runs_a_kernel(session: rpc.RPCSession) -> None:
    rng = np.random.default_rng()
    x = rng.standard_normal((ROWS, INNER)).astype(np.float32)
    w = rng.standard_normal((OUTPUTS, INNER)).astype(np.float32)
    session.upload(bytearray(_product()), "product.so")
    library, device = session.load_module("product.so"), session.cpu()
    y = tvm.runtime.empty((ROWS, OUTPUTS), "float32", device)
    library["main"](tvm.runtime.tensor(x, device), tvm.runtime.tensor(w, device), y)
    np.testing.assert_allclose(y.numpy(), x.astype(np.float64) @ w.T, rtol=1e-4, atol=1e-5)
    timer = library.time_evaluator("main", device, number=3, repeat=2)
    arguments = (tvm.runtime.tensor(x, device), tvm.runtime.tensor(w, device), y)
    assert len(timer(*arguments).results) == 2


def test_tvms_client_runs_and_times_a_kernel(server: Process, client: Client) -> None:
    _runs_a_kernel(client())


def test_the_device_tells_who_and_how_it_is(server: Process, client: Client) -> None:
    session = client()
    info, state, facts = (_told(session, name) for name in ("info", "state", "facts"))
    assert set(info) >= {
        "serial", "key", "name", "emulated", "versions", "cores", "memory_bytes",
        "disk_free_bytes", "opencl", "pid",
    }  # fmt: skip
    assert (info["serial"], info["key"], info["emulated"]) == ("under-test", "shared", False)
    assert set(info["versions"]) == {"tvm", "tvm_ffi", "python", "codesign"}
    assert info["pid"] != server.process.pid
    assert set(state) == {
        "temperatures_c", "clocks_khz", "max_clocks_khz", "governors", "load",
        "memory_free_bytes", "disk_free_bytes", "battery", "throttled", "time",
    }  # fmt: skip
    assert set(facts) == {
        "cpuinfo", "machine", "hwcap", "hwcap2", "cpus", "system", "libc", "model", "opencl"
    }  # fmt: skip
    assert facts["machine"] == os.uname().machine
    assert facts["hwcap"] > 0
    assert len(facts["cpus"]) == info["cores"]


def test_a_session_is_pinned_and_unpinned(server: Process, client: Client) -> None:
    pin = client().get_function("codesign.device.pin")
    allowed = sorted(os.sched_getaffinity(0))
    assert json.loads(pin(str(allowed[-1]))) == allowed[-1:]
    assert json.loads(pin("")) == allowed
    for wrong in ("x", "4000"):
        with pytest.raises(tvm.error.RPCError):
            pin(wrong)


def test_files_stay_in_the_sessions_folder(server: Process, client: Client) -> None:
    session = client()
    data = bytearray(os.urandom(100_001))
    session.upload(data, "sub/x.bin")
    assert bytes(session.download("sub/x.bin")) == bytes(data)
    assert session.listdir(".") == "sub"
    session.remove("sub/x.bin")
    assert session.listdir("sub") == ""
    for path in ("../x", "/tmp/codesign-x", "sub/../../x"):
        for attempt in (
            lambda p: session.upload(bytearray(b"x"), p),
            session.download,
            session.remove,
            session.load_module,
            session.listdir,
        ):
            with pytest.raises(tvm.error.RPCError, match="refused"):
                attempt(path)
    with pytest.raises(tvm.error.RPCError, match="cannot be read"):
        session.download("none")
    with pytest.raises(tvm.error.RPCError, match="links nothing"):
        session.download_linked_module("x.tar")
    assert session.get_function("tvm.rpc.server.workpath")("y").endswith("/y")


def test_an_upload_over_the_limit_is_refused_and_the_session_goes_on(
    server: Process, client: Client
) -> None:
    session = client()
    with pytest.raises(tvm.error.RPCError, match=r"at most 2\.0 MB"):
        session.upload(bytearray(2 * MB + 1), "long")
    session.upload(bytearray(2 * MB), "long")
    assert len(session.download("long")) == 2 * MB


def test_a_full_disk_is_a_clear_error_and_the_session_goes_on(
    start: Starter, client: Client
) -> None:
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MB // 10, MB // 10))

    start("small-disk", preexec_fn=small_disk)
    session = client("small-disk")
    with pytest.raises(tvm.error.RPCError, match="no room"):
        session.upload(bytearray(MB), "long")
    session.upload(bytearray(b"short"), "short")
    assert session.listdir(".") == "short"


@needs_gcc
def test_a_kernel_cannot_write_a_longer_file_than_an_upload_may_be(
    server: Process, client: Client, bad_library: bytearray
) -> None:
    session = client()
    session.upload(bad_library, "bad.so")
    assert 0 < session.load_module("bad.so")["fill"]() <= 2 * MB


def test_the_cache_outlives_the_session(server: Process, client: Client) -> None:
    data = bytearray(os.urandom(300_000))
    digest = hashlib.sha256(data).hexdigest()
    session = client()
    assert session.get_function("codesign.cache.has")(digest) == 0
    session.upload(data, "weights")
    with pytest.raises(tvm.error.RPCError, match="has the SHA-256"):
        session.get_function("codesign.cache.keep")("weights", "0" * 64)
    with pytest.raises(tvm.error.RPCError, match="refused"):
        session.get_function("codesign.cache.keep")("../../weights", digest)
    session.get_function("codesign.cache.keep")("weights", digest)
    del session
    session = client()
    assert session.listdir(".") == ""
    assert session.get_function("codesign.cache.has")(digest) == 1
    assert session.get_function("codesign.cache.take")(digest, "copy") == 1
    assert bytes(session.download("copy")) == bytes(data)
    assert session.get_function("codesign.cache.take")("0" * 64, "copy2") == 0


@needs_gcc
@pytest.mark.parametrize(
    ("function", "told"), [("crash", "signal SIGSEGV"), ("leave", "exit status 3")]
)
def test_a_session_that_dies_harms_nothing_and_is_remembered(
    server: Process,
    client: Client,
    bad_library: bytearray,
    status: Callable[[], dict[str, Any]],
    function: str,
    told: str,
) -> None:
    session = client()
    session.upload(bad_library, "bad.so")
    bad = session.load_module("bad.so")[function]
    with pytest.raises(Exception, match=r"."):
        bad()
    del session, bad
    assert _eventually(lambda: _last_exit(status, "shared") == told)
    _runs_a_kernel(client())


@needs_gcc
def test_a_session_that_hangs_is_killed_at_its_time_with_all_it_started(
    server: Process,
    client: Client,
    bad_library: bytearray,
    status: Callable[[], dict[str, Any]],
) -> None:
    session = client(timeout=2)
    session.upload(bad_library, "bad.so")
    library = session.load_module("bad.so")
    folder = Path(session.get_function("tvm.rpc.server.workpath")("."))
    assert folder.exists()
    descendant, pid = library["daemon"](), _told(session, "info")["pid"]
    assert _is_alive(descendant)
    before = time.monotonic()
    with pytest.raises(tvm.error.RPCSessionTimeoutError, match="2s session has expired"):
        library["hang"]()
    assert time.monotonic() - before < 6
    assert _eventually(lambda: not _is_alive(descendant) and not _is_alive(pid))
    assert _eventually(lambda: not folder.exists())
    assert _eventually(lambda: "timed out" in _last_exit(status, "shared"))
    del session, library
    _runs_a_kernel(client())


@needs_gcc
def test_what_a_session_leaves_behind_dies_with_it(
    server: Process, client: Client, bad_library: bytearray
) -> None:
    session = client()
    session.upload(bad_library, "bad.so")
    descendant = session.load_module("bad.so")["daemon"]()
    assert _is_alive(descendant)
    del session
    gc.collect()
    assert _eventually(lambda: not _is_alive(descendant))


@needs_gcc
def test_a_client_that_dies_in_the_middle_of_a_call_frees_the_device(
    server: Process, tracker: TrackerThread, client: Client, bad_library: bytearray, tmp_path: Path
) -> None:
    at = tracker.address
    (tmp_path / "bad.so").write_bytes(bad_library)
    code = (
        "from tvm import rpc\n"
        f"s = rpc.connect_tracker({at.host!r}, {at.port}).request('shared', session_timeout=100)\n"
        f"s.upload({str(tmp_path / 'bad.so')!r})\n"
        "print('hangs', flush=True)\n"
        "s.load_module('bad.so')['hang']()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as dying:
        assert dying.stdout is not None
        assert dying.stdout.readline() == "hangs\n"
        time.sleep(0.2)
        dying.kill()
    before = time.monotonic()
    _runs_a_kernel(client())
    assert time.monotonic() - before < SECONDS


def _connect(server: Process) -> socket.socket:
    return socket.create_connection((server.address.host, server.address.port), 5)


def _hung_up(connection: socket.socket, seconds: float = SECONDS) -> bool:
    connection.settimeout(seconds)
    with contextlib.suppress(ConnectionError):
        return connection.recv(100) in (b"", wire.magic(wire.RPC_MISMATCH))
    return True


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        wire.magic(wire.RPC_MAGIC) + struct.pack("<i", 2**31 - 1),
        wire.magic(wire.RPC_MAGIC) + struct.pack("<i", -1),
        wire.magic(wire.RPC_MAGIC) + struct.pack("<i", 6) + b"client",
        wire.magic(wire.RPC_MAGIC) + struct.pack("<i", 13) + b"client:shared",
    ],
)
def test_strangers_are_turned_away_at_once(server: Process, data: bytes) -> None:
    with _connect(server) as stranger:
        stranger.sendall(data)
        before = time.monotonic()
        assert _hung_up(stranger)
        assert time.monotonic() - before < 3


def test_a_silent_client_is_dropped_and_keeps_nobody_waiting(
    server: Process, client: Client
) -> None:
    with _connect(server) as silent, _connect(server) as slow:
        slow.sendall(wire.magic(wire.RPC_MAGIC)[:3])
        _runs_a_kernel(client())
        assert _hung_up(silent)
        assert _hung_up(slow)


def test_garbage_within_a_session_costs_that_session_only(
    server: Process, tracker: TrackerThread, client: Client
) -> None:
    with socket.create_connection((tracker.address.host, tracker.address.port), 5) as asking:
        until = time.monotonic() + SECONDS
        asking.sendall(wire.magic(wire.TRACKER_MAGIC))
        wire.read_exactly(asking, 4, until)
        asking.sendall(wire.frame([wire.Code.REQUEST, "shared", "", 1]))
        _, (host, port, match_key) = wire.read_frame(asking, until)
    with socket.create_connection((host, port), 5) as bad:
        key = f"client:{match_key} -timeout=20".encode()
        bad.sendall(wire.magic(wire.RPC_MAGIC) + struct.pack("<i", len(key)) + key)
        welcome = wire.welcome("shared")
        assert wire.read_exactly(bad, len(welcome), until) == welcome
        bad.sendall(struct.pack("<Q", 1 << 62) + b"\xff" * 100)
        with contextlib.suppress(ConnectionError):
            bad.settimeout(SECONDS)
            while bad.recv(1000):
                pass
    _runs_a_kernel(client())


def test_a_session_lasts_no_longer_than_the_server_allows(
    start: Starter, client: Client, status: Callable[[], dict[str, Any]]
) -> None:
    start("short", "--max-session", "1.5")
    session = client("short", timeout=1000)
    info = session.get_function("codesign.device.info")
    assert _eventually(lambda: "timed out" in _last_exit(status, "short"))
    with pytest.raises(tvm.error.RPCSessionTimeoutError, match=r"at most 1\.5s on this server"):
        info()


def test_a_zygote_that_dies_is_replaced(
    start: Starter, client: Client, status: Callable[[], dict[str, Any]]
) -> None:
    process = start("reborn")
    session = client("reborn")
    pid = _told(session, "info")["pid"]
    (zygote,) = (p for p in _tree(process.process.pid)[1:] if p != pid)
    os.kill(zygote, signal.SIGKILL)
    assert _eventually(lambda: not _is_alive(pid))
    del session
    process.wait_for(r"\bready$", count=2)
    _runs_a_kernel(client("reborn"))


def test_a_device_on_which_tvm_does_not_load_says_why(
    start: Starter, status: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "tvm.py").write_text("raise ImportError('libtvm does not fit this system')")
    process = start("sick", path=tmp_path, until="failed: ImportError")
    assert _eventually(lambda: _health(status, "sick")["error"])
    health = _health(status, "sick")
    assert "libtvm does not fit this system" in health["error"]
    assert health["state"] in ("starting", "ill")
    assert status()["queues"].get("sick", {"free": 0})["free"] == 0
    process.wait_for("it died", count=3)  # it is tried again
    assert _eventually(lambda: _health(status, "sick")["state"] == "ill")
    assert process.end() == 0


@needs_gcc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_cleanly_in_the_middle_of_a_session(
    start: Starter, client: Client, bad_library: bytearray, tmp_path: Path, number: signal.Signals
) -> None:
    work = tmp_path / "work"
    process = start(f"ending-{number}", "--work", str(work))
    session = client(f"ending-{number}")
    session.upload(bad_library, "bad.so")
    descendant = session.load_module("bad.so")["daemon"]()
    tree = [*_tree(process.process.pid), descendant]
    assert len(set(tree)) >= 4  # server, zygote, session and what it started
    process.process.send_signal(number)
    assert process.process.wait(15) == 0
    assert _eventually(lambda: not any(map(_is_alive, tree)), 5)
    assert [p.name for p in work.iterdir()] == ["sessions-0.lock"]


@needs_gcc
def test_a_killed_server_leaves_no_process_and_the_next_removes_its_folder(
    start: Starter, client: Client, bad_library: bytearray, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    process = start("killed", "--work", str(work))
    session = client("killed")
    session.upload(bad_library, "bad.so")
    descendant = session.load_module("bad.so")["daemon"]()
    tree = [*_tree(process.process.pid), descendant]
    process.process.kill()
    assert _eventually(lambda: not any(map(_is_alive, tree[1:])), 10)
    assert (work / "sessions-0" / "1" / "bad.so").exists()
    del session
    start("killed", "--work", str(work))
    assert list((work / "sessions-0").iterdir()) == []


def test_two_servers_share_a_folder_and_its_cache(
    start: Starter, client: Client, tmp_path: Path
) -> None:
    data = bytearray(b"shared weights")
    digest = hashlib.sha256(data).hexdigest()
    for key in ("left", "right"):
        start(key, "--work", str(tmp_path / "work"))
    left, right = client("left"), client("right")
    left.upload(data, "w")
    left.get_function("codesign.cache.keep")("w", digest)
    assert right.get_function("codesign.cache.take")(digest, "w") == 1
    assert right.listdir(".") == "w"


def test_it_comes_back_by_itself_when_the_tracker_restarts(start: Starter) -> None:
    first = TrackerThread()
    start("faithful", at=first.address)
    _runs_a_kernel(_ask(first.address, "faithful"))
    gc.collect()
    first.close()
    with TrackerThread(port=first.address.port) as second:
        _runs_a_kernel(_ask(second.address, "faithful"))
        gc.collect()


def test_an_offer_that_nobody_takes_up_is_renewed(
    start: Starter, client: Client, tracker: TrackerThread
) -> None:
    start("renewed")
    with socket.create_connection((tracker.address.host, tracker.address.port), 5) as asking:
        until = time.monotonic() + SECONDS
        asking.sendall(wire.magic(wire.TRACKER_MAGIC))
        wire.read_exactly(asking, 4, until)
        asking.sendall(wire.frame([wire.Code.REQUEST, "renewed", "", 1]))
        wire.read_frame(asking, until)
    _runs_a_kernel(client("renewed"))  # waits until the lost offer is made again


def test_it_registers_at_tvms_tracker(start: Starter) -> None:
    from tvm.rpc.tracker import Tracker

    stock = Tracker("127.0.0.1", 9300, 9400, silent=True)
    try:
        start("guest", at=Address("127.0.0.1", stock.port))
        for _ in range(2):
            _runs_a_kernel(_ask(Address("127.0.0.1", stock.port), "guest"))
            gc.collect()
    finally:
        stock.terminate()


def test_tvms_server_registers_at_our_tracker(
    tracker: TrackerThread, client: Client, status: Callable[[], dict[str, Any]]
) -> None:
    at = (tracker.address.host, tracker.address.port)
    stock = rpc.Server("127.0.0.1", 9400, 9500, tracker_addr=at, key="stock", silent=True)
    try:
        for _ in range(2):
            _runs_a_kernel(client("stock"))
            gc.collect()
        (told,) = (s for s in status()["servers"] if s["key"] == "stock")
        assert told["health"] is None
    finally:
        stock.terminate()
    assert _eventually(
        lambda: [s["state"] for s in status()["servers"] if s["key"] == "stock"] == ["gone"]
    )


def test_without_a_tracker_clients_connect_with_the_plain_key(start: Starter) -> None:
    process = start("direct", at=Address("", 0))
    for _ in range(2):
        session = rpc.connect(process.address.host, process.address.port, "direct", 30)
        _runs_a_kernel(session)
        del session
        gc.collect()
    with pytest.raises(tvm.error.InternalError, match="matches key"):
        rpc.connect(process.address.host, process.address.port, "other", 30)


def test_sessions_in_the_servers_own_process(start: Starter, client: Client) -> None:
    process = start("inside", "--no-fork")
    for _ in range(2):
        session = client("inside")
        _runs_a_kernel(session)
        assert _told(session, "info")["pid"] == process.process.pid
        with pytest.raises(tvm.error.RPCError, match="refused"):
            session.upload(bytearray(b"x"), "../x")
        del session
    session = client("inside", timeout=1.5)
    info = session.get_function("codesign.device.info")
    time.sleep(2)
    with pytest.raises(Exception, match=r"."):
        info()
    del session, info
    _runs_a_kernel(client("inside"))


def test_only_this_machine_reaches_it_unless_told_otherwise(start: Starter) -> None:
    process = start("exposed", "--host", "0.0.0.0")
    assert any("run any code" in line for line in process.lines)
    hidden = start("hidden")
    assert hidden.address.host == "127.0.0.1"
    assert not any("run any code" in line for line in hidden.lines)
