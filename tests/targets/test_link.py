"""Linking with whatever the machine has, and saying so when it has nothing."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from targets.errors import TargetError
from targets.kernels.norm import layer_norm
from targets.kernels.spaces import schedules
from targets.link import Linker, export, find_linker
from targets.target import find


@pytest.fixture(scope="module")
def library():
    target = find("host")
    sch = schedules(layer_norm((3, 16), 1e-5), target)[0]
    return tvm.compile(sch.mod, target=target.tvm())


def test_a_library_can_be_loaded_and_called(library, tmp_path):
    path = export(library, tmp_path / "norm.so")
    x = np.arange(48, dtype=np.float32).reshape(3, 16)
    args = [tvm.runtime.tensor(a) for a in (x, np.ones(16, "f"), np.zeros(16, "f"), x)]
    tvm.runtime.load_module(str(path))["main"](*args)
    wanted = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(args[-1].numpy(), wanted, rtol=1e-5)


def test_the_first_linker_found_is_taken(monkeypatch):
    monkeypatch.setattr("targets.link.shutil.which", lambda n: f"/x/{n}" if "l" in n else None)
    assert find_linker() == Linker("clang", "/x/clang")
    monkeypatch.setattr("targets.link.shutil.which", lambda n: None)
    with pytest.raises(TargetError) as caught:
        find_linker()
    assert "ld.lld" in caught.value.allowed


def test_commands():
    assert Linker("gcc", "/x/gcc").command("a.so", ["b.o"]) == [
        "/x/gcc", "-shared", "-fPIC", "-o", "a.so", "b.o",
    ]  # fmt: skip
    assert Linker("ld.lld", "/x/l").command("a", ["b", "c"]) == [
        "/x/l",
        "-shared",
        "-o",
        "a",
        "b",
        "c",
    ]


def test_a_linker_that_fails_or_is_gone(tmp_path):
    broken = find_linker()
    with pytest.raises(TargetError, match="linking failed") as caught:
        broken(str(tmp_path / "a.so"), str(tmp_path / "missing.o"))
    assert "missing.o" in caught.value.got
    with pytest.raises(TargetError) as caught:
        Linker("gcc", str(tmp_path / "none"))("a.so", ["b.o"])
    assert "none" in caught.value.got
