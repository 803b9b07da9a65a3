"""Making TVM's OpenCL runtime: what lacks is said; and which library a server may load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tvm
import tvm_ffi

from codesign.devices import opencl, opencl_driver, opencl_runtime, session
from codesign.devices.options import default_work
from codesign.devices.serving import make_options
from codesign.devices.stand_in import is_stand_in
from codesign.errors import UserError
from codesign.fleet.identity import Identity
from codesign.worker.over_rpc import OverRpc
from targets.detect import DeviceFacts, describe
from targets.target import find

TOLD = {
    "name": "Mali-G610 r0p0", "type": "gpu", "driver": "3.0", "max_work_group_size": 1024,
    "local_mem_bytes": 32768, "compute_units": 4, "max_clock_mhz": 1000, "extensions": "cl_khr_fp16",
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder that looks like a checkout of TVM with the installed interface."""
    folder = tmp_path / "tvm"
    runtime = folder / "src/backend/opencl/runtime"
    (runtime / "opencl_wrapper").mkdir(parents=True)
    (runtime / "opencl_device_api.cc").write_text("#error not C++ of TVM\n")
    (folder / "src/support").mkdir(parents=True)
    installed = Path(tvm.__file__).parent / "include/tvm"
    for name in opencl._INTERFACE:
        to = folder / "include/tvm" / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes((installed / name).read_bytes())
    headers = folder / "3rdparty/OpenCL-Headers/CL"
    headers.mkdir(parents=True)
    (headers / "cl.h").write_text("")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _error(*arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        opencl.make(*arguments)
    return str(caught.value)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that is called a compiler, and is none."""
    path = tmp_path / "cxx"
    path.write_text("#!/bin/sh\necho 'x.cc:1: error: not today' >&2\nexit 1\n")
    path.chmod(0o700)
    monkeypatch.setenv("CXX", str(path))


def test_without_sources_it_names_the_clone_of_the_installed_version(compiler: None) -> None:
    said = _error(None)
    assert f"git clone --depth 1 --branch v{opencl.TVM} " in said
    assert "OpenCL-Headers" in said


def test_another_folder_is_no_checkout(compiler: None, tmp_path: Path) -> None:
    said = _error(tmp_path)
    assert "no checkout of TVM" in said
    assert opencl.CLONE in said


def test_without_a_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "sudo apt install g++" in _error(source)


def test_sources_of_another_version_are_refused(compiler: None, source: Path) -> None:
    header = source / "include/tvm/runtime/device_api.h"
    header.write_text(header.read_text() + "\n// one virtual function more\n")
    said = _error(source)
    assert "another version" in said
    assert "device_api.h" in said


def test_without_headers(compiler: None, source: Path, tmp_path: Path) -> None:
    said = _error(source, tmp_path)
    assert "no CL/cl.h" in said
    assert "opencl-headers" in said


def test_without_a_driver(compiler: None, source: Path, tmp_path: Path) -> None:
    said = _error(source, None, tmp_path / "libOpenCL.so")
    assert "no OpenCL driver" in said
    assert "apt install" in said


def test_no_system_library_is_a_driver_but_opencls(
    monkeypatch: pytest.MonkeyPatch, compiler: None, source: Path
) -> None:
    monkeypatch.setattr(opencl_driver, "_candidates", lambda: iter(["libc.so.6", "libnone.so"]))
    assert "no libOpenCL.so" in _error(source)


def test_what_the_compiler_says_is_told_and_nothing_is_left(
    compiler: None, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl, "find_driver", lambda driver: Path("/usr/lib/libOpenCL.so.1"))
    assert "error: not today" in _error(source)
    assert not opencl_runtime.cached().exists()
    assert list(opencl_runtime.cached().parent.parent.iterdir()) == []


def test_the_board_has_the_same_command(compiler: None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codesign.devices.opencl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert opencl.CLONE in done.stderr


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o700)
    path = folder / opencl_runtime.NAME
    path.write_bytes(b"no library")
    path.chmod(0o700)
    return path


def test_a_library_of_this_user_may_be_loaded(library: Path) -> None:
    assert opencl_runtime.refused(library) is None


def test_one_that_others_may_write_is_refused(library: Path) -> None:
    library.chmod(0o722)
    assert "others may write" in str(opencl_runtime.refused(library))
    library.chmod(0o700)
    library.parent.chmod(0o770)
    assert "others may write" in str(opencl_runtime.refused(library))


def test_nothing_is_loaded_from_where_clients_write(library: Path, tmp_path: Path) -> None:
    assert "clients' files" in str(opencl_runtime.refused(library, library.parent))
    link = tmp_path / "link.so"
    link.symlink_to(library)
    assert "clients' files" in str(opencl_runtime.refused(link, library.parent))
    with pytest.raises(UserError, match="not loaded"):
        make_options("k", tracker=None, work=library.parent, opencl=str(library))


def test_the_servers_own_work_folder_does_not_hold_the_cache_of_the_runtime() -> None:
    assert not opencl_runtime.cached().is_relative_to(default_work())


def test_the_options_of_a_server(library: Path, tmp_path: Path) -> None:
    made = {
        given: make_options("k", tracker=None, work=tmp_path / "w", opencl=given)
        for given in ("auto", "none", str(library))
    }
    assert [(o.opencl, o.offers_opencl) for o in made.values()] == [
        (None, True), (None, False), (library, True)
    ]  # fmt: skip
    with pytest.raises(UserError, match="not loaded") as caught:
        make_options("k", tracker=None, opencl=str(tmp_path / "absent.so"))
    assert opencl_runtime.BUILD in str(caught.value)


@pytest.fixture
def without_opencl() -> None:
    if tvm_ffi.get_global_func("device_api.opencl", allow_missing=True) is not None:
        pytest.skip("this TVM was built with OpenCL")


def test_without_one_in_the_cache_the_command_is_named(without_opencl: None) -> None:
    assert opencl_runtime.BUILD in str(opencl_runtime.load())
    assert not opencl_runtime.exists()
    assert opencl_runtime.told() is None


def test_what_is_no_library_does_not_load(without_opencl: None, library: Path) -> None:
    assert "does not load" in str(opencl_runtime.load(library))
    assert "clients' files" in str(opencl_runtime.load(library, library.parent))


def test_a_library_of_something_else_is_told_from_a_runtime(without_opencl: None) -> None:
    other = Path(tvm_ffi.libinfo.find_libtvm_ffi())
    if opencl_runtime.refused(other):
        pytest.skip("the installed packages belong to another user")
    assert "no OpenCL runtime" in str(opencl_runtime.load(other))


BOARD = {
    "cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
    "machine": "aarch64", "hwcap": 2, "hwcap2": 0, "model": "Orange Pi 5",
    "cpus": [{"cpu": 0, "max_khz": 2400000, "caches": []}],
}  # fmt: skip


def test_what_the_driver_tells_is_what_a_description_takes() -> None:
    gpu = describe(DeviceFacts.from_json(json.loads(json.dumps(BOARD | {"opencl": TOLD})))).chip.gpu
    assert gpu is not None
    assert (gpu.family, gpu.max_threads, gpu.fp16, gpu.units) == ("mali", 1024, True, 4)


def test_only_a_processor_stands_in_for_a_gpu() -> None:
    assert is_stand_in({"opencl_type": "cpu"}, "opencl")
    assert not is_stand_in({"opencl_type": "gpu"}, "opencl")
    assert not is_stand_in({"opencl_type": "cpu"}, "llvm")
    assert not is_stand_in({}, "opencl")


@pytest.mark.parametrize(("kind", "told", "emulated"), [
    ("opencl", "cpu", True), ("opencl", "gpu", False), ("llvm", "cpu", False),
])  # fmt: skip
def test_records_keep_a_stand_in_apart(kind: str, told: str, emulated: bool) -> None:
    device = Identity("k", {"cores": 2, "opencl_type": told}, BOARD | {"opencl": TOLD}, kind)
    assert device.emulated is emulated
    assert ("OpenCL on its processor, emulated" in device.name) is emulated


def test_a_gpus_code_needs_a_server_with_opencl() -> None:
    facts = {"cpuinfo": "", "machine": "x86_64", "opencl": None}
    with pytest.raises(UserError) as caught:
        Identity("k", {}, facts, "opencl").target("opencl")
    assert opencl_runtime.BUILD in str(caught.value)
    found = Identity("k", {}, facts | {"opencl": TOLD}, "opencl").target("opencl")
    assert found == find("opencl")


def test_the_gpu_of_a_device_is_a_target_by_that_word() -> None:
    board = Identity("Orange-5", {"cores": 8}, BOARD | {"opencl": TOLD}, "opencl").target("gpu")
    assert (board.name, board.kind, board.architecture) == ("orange-5/gpu", "opencl", "aarch64")
    assert board.gpu is not None
    assert (board.gpu.name, board.gpu.fp16) == ("Mali-G610", True)
    pc = Identity("pc", {}, {"machine": "x86_64", "cpuinfo": "", "opencl": TOLD}, "opencl")
    assert pc.target("gpu") == find("opencl")
    with pytest.raises(UserError, match="offers no OpenCL"):
        Identity("b", {"cores": 8}, BOARD, "opencl").target("gpu")
    with pytest.raises(UserError, match="not known which GPU"):
        Identity("stock", {}, {}, "opencl").target("gpu")


def test_the_clock_covers_what_the_gpu_has_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Gpu:
        def sync(self) -> None:
            done.append("sync")

    monkeypatch.setattr(tvm.runtime, "device", lambda *_: Gpu())
    times = iter([10.0, 13.0])

    def clock() -> float:
        done.append("clock")
        return next(times)

    monkeypatch.setattr(session.time, "perf_counter", clock)
    assert session.wall({"f": done.append}, "f", 3, "call") == pytest.approx(1.0)
    assert done == ["call", "sync", "clock", "call", "call", "call", "sync", "clock"]


@pytest.mark.parametrize(("kind", "wall", "timed"), [
    ("opencl", None, True), ("opencl", print, False), ("llvm", None, False),
])  # fmt: skip
def test_a_stock_servers_sum_of_kernels_is_told_as_such(kind: str, wall: Any, timed: bool) -> None:
    there = object.__new__(OverRpc)
    there.kind, there.told, there._before = kind, {"serial": "s"}, None
    there._functions = {"codesign.device.wall": wall, "codesign.device.state": None}
    there._state = (float("-inf"), None)
    assert ("timed" in there.story()) is timed


def test_the_driver_of_this_machine_is_listed_as_it_is() -> None:
    driver = opencl_driver.open_driver()
    if driver is None:
        pytest.skip("no OpenCL driver here")
    path = opencl_driver.file_of(driver)
    assert path is not None
    assert path.is_file()
    found = opencl_driver.devices(driver)
    pyopencl = pytest.importorskip("pyopencl")
    known = {d.name.strip(): d for p in pyopencl.get_platforms() for d in p.get_devices()}
    for device in found:
        theirs = known[device["name"]]
        assert device["max_work_group_size"] == theirs.max_work_group_size
        assert device["local_mem_bytes"] == theirs.local_mem_size
        assert device["compute_units"] == theirs.max_compute_units
        assert device["extensions"].split() == theirs.extensions.split()
        assert device["type"] == {2: "cpu", 4: "gpu"}.get(theirs.type & ~1, device["type"])
