"""GPU code over RPC, from the build of the runtime to a frontier: needs TVM's sources once, and an OpenCL driver.

``CODESIGN_TVM_SOURCES`` names a checkout of apache/tvm (``CODESIGN_OPENCL_HEADERS`` a folder with CL/cl.h, if the
checkout has none); without it the runtime in this user's cache is taken.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from codesign.bench import bench_on_device
from codesign.bundle import open_bundle
from codesign.cli import main
from codesign.compile import compile_model
from codesign.devices import opencl, opencl_runtime
from codesign.devices.doctor import examine_device
from codesign.devices.tracker import TrackerThread
from codesign.errors import UserError
from codesign.frontier import Frontier
from codesign.station import Station, open_station
from codesign.where import Where

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the target opencl is of x86-64"),
]

KEY = "gpu-under-test"

SOURCE = '''
"""A small CNN with random weights; quality is agreement with its outputs."""
import numpy as np
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 36, 32), nn.ReLU(), nn.Linear(32, 10))
    return net.eval(), {"input": torch.zeros(1, 3, 6, 6)}


def inputs(seed, count):
    rng = np.random.default_rng(seed)
    return [{"input": rng.standard_normal((1, 3, 6, 6)).astype(np.float32)} for _ in range(count)]


def wanted(sample):
    net, _ = build()
    with torch.no_grad():
        return net(torch.from_numpy(sample["input"])).numpy()


def calibration():
    return inputs(1, 4)


def quality(predict):
    errors = []
    for sample in inputs(2, 3):
        right = wanted(sample)
        (found,) = predict(sample).values()
        errors.append(np.square(found - right).sum() / np.square(right).sum())
    return {"agreement": 1 - float(np.mean(errors))}
'''

CONFIG = """
[sweep]
model = "tiny.py:build"
target = "opencl"
quality = "tiny.py:quality"
calibration = "tiny.py:calibration"
output = "runs/first"
trials = 1
passes = ["sparse"]
device = "{key}"
tracker = "{tracker}"

[goal]
metric = "agreement"

[budget]
measurements = 1
"""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TVM's OpenCL runtime, made from the sources that the environment names, or found in the cache."""
    sources = os.environ.get("CODESIGN_TVM_SOURCES")
    if not sources:
        if not opencl_runtime.cached().exists():
            pytest.skip(
                f"no OpenCL runtime of TVM: CODESIGN_TVM_SOURCES, or {opencl_runtime.BUILD}"
            )
        return opencl_runtime.cached()
    headers = os.environ.get("CODESIGN_OPENCL_HEADERS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        try:
            made = opencl.make(Path(sources), Path(headers) if headers else None)
        except UserError as error:
            if "driver" in error.what or "no device" in error.what or "compiler" in error.what:
                pytest.skip(str(error))
            raise
        assert made["library"] == str(opencl_runtime.cached())
    return Path(made["library"])


@pytest.fixture(scope="module")
def served(tracker: TrackerThread, runtime: Path, start: Any) -> str:
    """The address of a tracker with one device that offers OpenCL."""
    start(KEY, "--opencl", str(runtime))
    return str(tracker.address)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "tiny.py").write_text(SOURCE)
    return folder


@pytest.fixture(scope="module")
def tiny(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_gpu", folder / "tiny.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _station(served: str) -> Any:
    return open_station(Where("opencl", device=KEY, tracker=served))


@pytest.fixture
def station(served: str) -> Iterator[Station]:
    with _station(served) as opened:
        yield opened


def test_the_doctor_sees_the_device_and_says_when_it_is_no_gpu(
    served: str, tracker: TrackerThread, station: Station
) -> None:
    assert station.told is not None
    kind = station.told.told["opencl_type"]
    station.rig.close()  # gives the device back
    checks = {c.name: c for c in examine_device(KEY, tracker.address)}
    assert checks["kernel"].status == "ok"
    assert checks["opencl"].found.startswith("the runtime finds a device")
    assert checks["opencl"].status == ("warn" if kind == "cpu" else "ok")


def test_a_model_is_tuned_compiled_measured_and_right_there(
    served: str, folder: Path, tiny: ModuleType
) -> None:
    made = compile_model(
        f"{folder / 'tiny.py'}:build", target="opencl", device=KEY, tracker=served, trials=2,
        output=folder / "build" / "tiny",
    )  # fmt: skip
    assert made.latency.ok, made.latency.error
    assert made.measured_on.startswith(f"{KEY} over RPC")
    assert all(np.isfinite(row.median_us) and row.median_us > 0 for row in made.kernels)
    assert "timed" not in made.latency.meta  # by the device's clock
    with _station(served) as station:
        assert station.emulated is (station.told.told["opencl_type"] == "cpu")
        assert made.latency.meta.get("emulated", False) is station.emulated
        assert ("emulated" in made.latency_text) is station.emulated
        for sample in tiny.inputs(3, 3):
            found = station.rig.run(made.bundle.path, sample)
            assert isinstance(found, dict), found
            right = tiny.wanted(sample)
            (output,) = found.values()
            assert np.abs(output - right).max() < 1e-5 * np.abs(right).max()


def test_a_bundle_is_timed_there_again(served: str, folder: Path) -> None:
    bundle = folder / "build" / "tiny"
    if not bundle.exists():
        pytest.skip("the test before has made no bundle")
    found = bench_on_device(bundle, Where(device=KEY, tracker=served), repeats=3).as_dict()
    assert found["latency_ms"] > 0
    assert found["emulated"] is ("OpenCL on its processor" in found["device"])


def test_a_sweep_ends_in_a_frontier_of_that_device(
    served: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sweep.toml").write_text(CONFIG.format(key=KEY, tracker=served))
    monkeypatch.delenv("CODESIGN_TRACKER", raising=False)
    monkeypatch.setattr("sys.argv", ["codesign", "sweep", str(folder / "sweep.toml"), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    run = folder / "runs" / "first"
    frontier = Frontier.read(run / "frontier.json")
    assert frontier.points
    for point in frontier.points:
        assert point.latency_ms > 0
        assert open_bundle(run / point.bundle, to_run=False).manifest["target"]["name"] == "opencl"
    device = json.loads((run / "report.json").read_text())["device"]
    assert device["device"].startswith(f"{KEY} over RPC")
    assert frontier.emulated is device["emulated"]
    assert frontier.emulated is ("OpenCL on its processor" in device["device"])


def test_a_server_told_to_offer_none_says_what_lacks(tracker: TrackerThread, start: Any) -> None:
    start("processor-only", "--opencl", "none")
    with (
        pytest.raises(UserError, match="offers no OpenCL") as caught,
        open_station(Where("opencl", device="processor-only", tracker=str(tracker.address))),
    ):
        pass
    assert opencl_runtime.BUILD in str(caught.value)
