"""TVM's own C++ server (`tvm_rpc`, docs/devices.md says how it is built) at our tracker, with our clients.

Runs where `tvm_rpc` is on the PATH, or named by the variable TVM_RPC.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from codesign.bench import bench_on_device
from codesign.compile import compile_model
from codesign.devices.client import TrackerClient
from codesign.devices.doctor import examine_device
from codesign.devices.probing import Unanswered, probe
from codesign.devices.tracker import TrackerThread
from codesign.where import Where

BINARY = os.environ.get("TVM_RPC") or shutil.which("tvm_rpc")
KEY = "phone"
TARGET = {"x86_64": "x86-64-v2", "aarch64": "linux-arm64"}.get(platform.machine(), "host")
_SECONDS = 20.0

pytestmark = pytest.mark.skipif(
    BINARY is None, reason="no tvm_rpc on the PATH, and none named by the variable TVM_RPC"
)


class Served:
    """A server that is started, ended, and started again."""

    def __init__(self, tracker: TrackerThread, folder: Path) -> None:
        self.tracker, self.folder = tracker, folder
        self.start()

    def start(self) -> None:
        assert BINARY is not None
        self.process = subprocess.Popen(
            [
                BINARY, "server", "--host=127.0.0.1", "--port=15500", "--port-end=15600",
                f"--tracker={self.tracker.address}", f"--key={KEY}", "--custom-addr=127.0.0.1",
            ],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self.wait_for(lambda states: "free" in states)

    def states(self) -> list[str]:
        with TrackerClient(self.tracker.address) as client:
            return [s["state"] for s in client.status()["servers"]]

    def wait_for(self, holds: Callable[[list[str]], bool]) -> None:
        until = time.monotonic() + _SECONDS
        while not holds(self.states()):
            assert time.monotonic() < until, self.states()
            time.sleep(0.1)

    def kill(self) -> None:
        """It and its session, at once: as a phone that is switched off."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def tracker() -> Iterator[TrackerThread]:
    with TrackerThread() as running:
        yield running


@pytest.fixture
def served(tracker: TrackerThread, tmp_path: Path) -> Iterator[Served]:
    server = Served(tracker, tmp_path)
    yield server
    server.kill()
    server.wait_for(lambda states: "free" not in states)
    with TrackerClient(tracker.address) as client:
        client.forget(KEY, None)


def test_it_is_pinged_and_examined_and_outlives_it(served: Served) -> None:
    answer = probe(served.tracker.address, KEY, seconds=30.5, tell=("info",), pings=3)
    assert not isinstance(answer, Unanswered), answer
    assert answer["info"] is None
    checks = examine_device(KEY, served.tracker.address, machine=platform.machine())
    found = {check.name: check.status for check in checks}
    assert (found["session"], found["kernel"]) == ("ok", "ok")
    assert "fail" not in found.values()
    assert served.process.poll() is None


def test_it_comes_back_after_it_was_forgotten(served: Served) -> None:
    with TrackerClient(served.tracker.address) as client:
        assert client.forget(KEY, None) == 1
    served.wait_for(lambda states: "free" in states)
    assert served.process.poll() is None


def test_a_model_is_compiled_there_and_measured_there_after_the_server_was_killed(
    served: Served, tmp_path: Path
) -> None:
    model = (torch.nn.Linear(32, 48).eval(), (torch.zeros(4, 32),))
    where = str(served.tracker.address)
    output = tmp_path / "bundle"
    compiled = compile_model(
        model, target=TARGET, device=KEY, tracker=where, trials=2, output=output
    )
    assert compiled.bundle.path == output
    served.kill()
    served.start()
    benched = bench_on_device(output, Where(device=KEY, tracker=where), 3)
    assert benched.measurement.ok
    assert "stock TVM server" in benched.device
