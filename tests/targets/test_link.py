"""Linking with whatever the machine has, and saying so when it has nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import tvm

from targets.emulated import COMPILER, EMULATOR, lacking
from targets.errors import TargetError
from targets.kernels.norm import layer_norm
from targets.kernels.spaces import schedules
from targets.link import Linker, export, find_linker, find_linker_for
from targets.target import find

AARCH64 = 183  # EM_AARCH64, ELF for the Arm 64-bit Architecture
ARM = find("aarch64-dotprod")
PHONE = replace(ARM, triple="aarch64-linux-android")


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


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """``tools("ld.lld", ...)``: the only programs in PATH, and no NDK."""
    for name in ("TVM_NDK_CC", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("targets.link.platform.machine", lambda: "x86_64")

    def only(*names):
        monkeypatch.setenv("PATH", str(tmp_path))
        for name in names:
            tmp_path.joinpath(name).touch(0o755)

    return only


def compilers(folder, *levels):
    """An NDK with compilers of these API levels."""
    made = folder / "toolchains/llvm/prebuilt/linux-x86_64/bin"
    made.mkdir(parents=True)
    for level in levels:
        made.joinpath(f"aarch64-linux-android{level}-clang").touch(0o755)
        made.joinpath(f"aarch64-linux-android{level}-clang++").touch(0o755)
    return made


def test_foreign_code_is_not_linked_by_the_compiler_of_this_machine(tools):
    tools("gcc", "ld.lld", "aarch64-linux-gnu-gcc")
    assert find_linker().name == "gcc"
    assert find_linker(find("x86-64-v3")).name == "gcc"
    lld = find_linker(ARM)
    assert (lld.name, lld.needed) == ("ld.lld", ("libc.so.6", "libm.so.6"))
    assert find_linker(PHONE).needed == ("libc.so", "libm.so")


def test_the_cross_compiler_is_the_last_choice(tools):
    tools("gcc", "aarch64-linux-gnu-gcc")
    assert find_linker(ARM).name == "aarch64-linux-gnu-gcc"
    assert "-lm" in find_linker(ARM).options
    assert "-nostdlib" in find_linker(PHONE).options


def test_on_an_aarch64_machine_its_own_compiler_links(tools, monkeypatch):
    monkeypatch.setattr("targets.link.platform.machine", lambda: "aarch64")
    tools("gcc", "ld.lld")
    assert find_linker(ARM).name == "gcc"
    assert find_linker(PHONE).name == "ld.lld"
    with pytest.raises(TargetError, match="another machine"):
        find_linker(find("x86-64-v3"))


def test_no_linker_for_foreign_code(tools):
    tools("gcc")
    with pytest.raises(TargetError) as caught:
        find_linker(ARM)
    assert "apt install lld" in caught.value.next
    assert "aarch64-linux-gnu-gcc" in caught.value.allowed
    with pytest.raises(TargetError, match="another machine"):
        find_linker_for("riscv64-linux-gnu")


def test_the_ndk_links_what_is_for_android(tools, tmp_path, monkeypatch):
    tools("gcc", "ld.lld")
    found = compilers(tmp_path / "ndk", 35, 21, 29)
    monkeypatch.setenv("ANDROID_NDK_ROOT", str(tmp_path / "ndk"))
    assert find_linker(PHONE).path == str(found / "aarch64-linux-android21-clang")
    asked = find_linker(replace(ARM, triple="aarch64-linux-android29"))
    assert asked.path == str(found / "aarch64-linux-android29-clang")
    assert asked.command("a.so", ["b.o"])[-1] == "-lm"
    assert find_linker(ARM).name == "ld.lld"
    with pytest.raises(TargetError, match="NDK") as caught:
        find_linker(replace(ARM, triple="aarch64-linux-android30"))
    assert "android30" in caught.value.got
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "gone"))
    with pytest.raises(TargetError, match="NDK"):
        find_linker(PHONE)
    monkeypatch.setenv("TVM_NDK_CC", "/ndk/bin/clang-of-tvm")
    assert find_linker(PHONE).path == "/ndk/bin/clang-of-tvm"


def foreign(path, target, linker=None):
    """A layer norm for AArch64 in a shared library."""
    made = tvm.compile(schedules(layer_norm((3, 16), 1e-5), target)[0].mod, target=target.tvm())
    if linker is None:
        return export(made, path, target)
    made.export_library(str(path), fcompile=linker)
    return path


def machine_of(library):
    return int.from_bytes(library.read_bytes()[18:20], "little")


CROSS = [
    pytest.param(
        name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"no {name} in PATH")
    )
    for name in ("ld.lld", "aarch64-linux-gnu-gcc")
]
HOST = """
#include <dlfcn.h>
#include <stdio.h>
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count) {}
int main(int count, char **names) {
  void *library = dlopen(names[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL || dlsym(library, names[2]) == NULL) {
    fprintf(stderr, "%s\\n", dlerror());
    return 1;
  }
  return 0;
}
"""


def loads(folder, library, symbol):
    """What goes wrong when an emulated program loads a library and looks for a symbol; "" if nothing."""
    source, program = folder / "host.c", folder / "host"
    source.write_text(HOST)
    subprocess.run([COMPILER, "-rdynamic", str(source), "-o", str(program), "-ldl"], check=True)
    command = [EMULATOR, "-L", "/usr/aarch64-linux-gnu", str(program), str(library), symbol]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stderr if done.returncode else ""


@pytest.mark.skipif(lacking() is not None, reason=str(lacking()))
@pytest.mark.parametrize("name", CROSS)
def test_foreign_libraries_load(name, tmp_path, tools, monkeypatch):
    path, everything = shutil.which(name), os.environ["PATH"]
    tools()
    tmp_path.joinpath(name).symlink_to(path)
    linker = find_linker(ARM)
    monkeypatch.setenv("PATH", everything)
    assert linker.name == name
    library = foreign(tmp_path / "norm.so", ARM, linker)
    assert machine_of(library) == AARCH64
    assert loads(tmp_path, library, "__tvm_ffi_main") == ""
    assert "undefined symbol: absent" in loads(tmp_path, library, "absent")


@pytest.mark.skipif(shutil.which("ld.lld") is None, reason="no ld.lld in PATH")
def test_a_library_for_android_needs_what_android_has(tmp_path):
    linker = Linker("ld.lld", str(shutil.which("ld.lld")), needed=("libc.so", "libm.so"))
    content = foreign(tmp_path / "norm.so", PHONE, linker).read_bytes()
    assert b"\0libc.so\0" in content
    assert b"libc.so.6" not in content
