import json
import os
import shutil
from importlib import metadata

import psutil
import pytest

from codesign import doctor
from targets.cpu import Processor
from targets.errors import TargetError


def _one(checks, name):
    return next(c for c in checks if c.name == name)


@pytest.fixture
def no_kernel(monkeypatch):
    monkeypatch.setattr(doctor, "_kernel", lambda: doctor.Check("kernel", "ok", "not tried"))


def test_this_machine_is_fit(tmp_path):
    checks = doctor.examine(tmp_path)
    assert doctor.healthy(checks), [c for c in checks if c.status == "fail"]
    assert len({c.name for c in checks}) == len(checks)
    assert "GFLOP/s" in _one(checks, "kernel").found
    assert json.loads(json.dumps([c.to_json() for c in checks]))[0]["name"] == "python"
    assert all(c.mend for c in checks if c.status != "ok")


def test_a_wrong_ffi_is_named_and_the_kernel_is_not_even_tried(monkeypatch):
    real = metadata.version
    fake = {"apache-tvm-ffi": "0.1.15"}
    monkeypatch.setattr(metadata, "version", lambda name: fake.get(name) or real(name))
    monkeypatch.setattr(doctor, "_kernel", lambda: pytest.fail("it would crash"))
    checks = doctor.examine()
    ffi = _one(checks, "tvm-ffi")
    assert ffi.status == "fail"
    assert "apache-tvm-ffi==0.1.14.post1" in ffi.mend
    assert _one(checks, "kernel").status == "fail"
    assert not doctor.healthy(checks)


@pytest.mark.usefixtures("no_kernel")
def test_missing_packages_are_named(monkeypatch):
    real = metadata.version

    def version(name):
        if name in ("torch", "xgboost"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    checks = doctor.examine()
    assert "torch==" in _one(checks, "torch").mend
    assert "xgboost" in _one(checks, "packages").found


@pytest.mark.usefixtures("no_kernel")
def test_no_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    linker = _one(doctor.examine(), "linker")
    assert linker.status == "fail"
    assert "install" in linker.mend
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    assert "unset" in _one(doctor.examine(), "linker").mend


@pytest.mark.usefixtures("no_kernel")
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    disk = _one(doctor.examine(tmp_path / "file" / "x"), "disk")
    assert disk.status == "fail"
    assert disk.mend


@pytest.mark.usefixtures("no_kernel")
def test_a_weak_or_busy_machine(monkeypatch):
    def nothing(*_):
        raise TargetError("no target fits", got="an abacus")

    memory = psutil.virtual_memory()._replace(available=1 << 30)
    monkeypatch.setattr(doctor, "host", nothing)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval=None: 90.0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(doctor, "this_processor", lambda: Processor("", "abacus", frozenset(), 1))
    checks = doctor.examine()
    assert _one(checks, "processor").status == "fail"
    assert "abacus" in _one(checks, "processor").found
    assert _one(checks, "load").status == "warn"
    assert _one(checks, "memory").status == "fail"
    assert not doctor.healthy(checks)


@pytest.mark.usefixtures("no_kernel")
def test_a_check_that_raises_is_a_failed_check(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1 / 0)
    assert "ZeroDivisionError" in _one(doctor.examine(), "load").found
