"""The folder of the emulated device: whole or not there. What it runs is in `test_emulated`."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import pytest

from codesign.devices import debian, emulator, wheels
from codesign.devices.debian import Package
from codesign.devices.emulator import EmulatedRoot, find, lacking, make_root
from codesign.errors import UserError

PACKAGES = [Package("python3", "3.11.2-1+b1", "p.deb", 10), Package("libc6", "2.36-9", "c.deb", 20)]


@pytest.fixture
def offline(monkeypatch):
    """Making the folder without network, QEMU or apt; what was asked of pip is in the list."""
    asked = []

    def unpacked(files, folder):
        (folder / "usr/bin").mkdir(parents=True)
        (folder / "usr/bin/python3.11").write_text("arm")
        (folder / emulator._SITE).mkdir(parents=True)

    def fetched(requirements, folder, python, platforms):
        asked.append((requirements, python, platforms))
        return []

    monkeypatch.setattr(emulator, "lacking", lambda folder: None)
    monkeypatch.setattr(emulator, "emulator", lambda: "qemu-aarch64-static")
    monkeypatch.setattr(debian.Apt, "update", lambda self: None)
    monkeypatch.setattr(debian.Apt, "resolve", lambda self, names: PACKAGES)
    monkeypatch.setattr(debian.Apt, "fetch", lambda self, packages: [Path("p.deb"), Path("c.deb")])
    monkeypatch.setattr(debian, "unpack", unpacked)
    monkeypatch.setattr(wheels, "fetch", fetched)
    return asked


def test_it_is_made_once_and_found_again(tmp_path, offline):
    said = []
    root = make_root(tmp_path / "arm", said.append)
    assert root.python == "3.11"
    assert root.packages == (("python3", "3.11.2-1+b1"), ("libc6", "2.36-9"))
    assert find(tmp_path / "arm") == root
    assert make_root(tmp_path / "arm") == root
    ((requirements, python, platforms),) = offline
    assert requirements == emulator.WHEELS
    assert python == (3, 11)
    assert platforms[0] == "manylinux_2_36_aarch64"
    assert any("2 packages" in line for line in said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["arm", "arm.lock"]


def test_a_failure_leaves_nothing_that_looks_whole(tmp_path, offline, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(wheels, "fetch", lambda *_: (_ for _ in ()).throw(UserError("no index")))
        with pytest.raises(UserError, match="no index"):
            make_root(tmp_path / "arm")
    assert not (tmp_path / "arm").exists()
    assert (tmp_path / "arm.half").is_dir()
    (tmp_path / "arm.half/usr/left-over").write_text("")
    make_root(tmp_path / "arm")
    assert not (tmp_path / "arm/usr/left-over").exists()
    assert not (tmp_path / "arm.half").exists()


def test_two_makers_make_one(tmp_path, offline, monkeypatch):
    entered, go_on, said = threading.Event(), threading.Event(), []
    fetch = wheels.fetch

    def slow(*given):
        entered.set()
        assert go_on.wait(10)
        return fetch(*given)

    monkeypatch.setattr(wheels, "fetch", slow)
    roots = []

    def second(line):
        said.append(line)
        go_on.set()

    first = threading.Thread(target=lambda: roots.append(make_root(tmp_path / "arm")))
    first.start()
    assert entered.wait(10)
    other = threading.Thread(target=lambda: roots.append(make_root(tmp_path / "arm", second)))
    other.start()
    first.join(10)
    other.join(10)
    assert len(roots) == 2
    assert roots[0] == roots[1]
    assert len(offline) == 1
    assert said == [f"waiting for the process that makes {tmp_path / 'arm'}"]


def test_a_folder_of_something_else_is_left_alone(tmp_path, offline):
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm/thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds something else"):
        make_root(tmp_path / "arm")
    assert (tmp_path / "arm/thesis.tex").read_text() == "x"


def test_a_folder_of_other_pins_is_not_taken(tmp_path, offline, monkeypatch):
    make_root(tmp_path / "arm")
    before = emulator.default_folder()
    monkeypatch.setattr(emulator, "WHEELS", ("apache-tvm==9.9",))
    assert find(tmp_path / "arm") is None
    assert emulator.default_folder() != before


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pins": 1}', '{"pins": "PINS"}'])
def test_a_broken_stamp_is_no_device(tmp_path, text):
    (tmp_path / emulator._STAMP).write_text(text.replace("PINS", emulator._pins()))
    assert find(tmp_path) is None


def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert emulator.default_folder().parent == tmp_path / "codesign" / "emulated"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert emulator.default_folder().is_relative_to(tmp_path / "home" / ".cache")


def test_what_is_lacking_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    emulator._has_pip.cache_clear()
    absent = lacking()
    assert absent is not None
    for word in ("no qemu-aarch64-static", "no apt-get", "no dpkg-deb", "apt install"):
        assert word in absent
    with pytest.raises(UserError, match="cannot be emulated") as caught:
        make_root(tmp_path / "arm")
    assert caught.value.got == absent


def test_a_folder_that_cannot_be_written_is_told(tmp_path, offline):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="was not made"):
        make_root(tmp_path / "file" / "arm")


def test_the_command_hides_what_is_meant_for_this_machine(tmp_path):
    root = EmulatedRoot(tmp_path / "r,o ot", "3.11", (), (), 0)
    command = root.command(["-c", "pass"], processor="cortex-a76", threads=2)
    assert command[0] == "env"
    assert command[-3:] == [str(tmp_path / "r,o ot/usr/bin/python-emulated"), "-c", "pass"]
    for name in ("LD_LIBRARY_PATH", "PYTHONHOME"):
        assert command[command.index(name) - 1] == "-u"
    assert {"QEMU_CPU=cortex-a76", "TVM_NUM_THREADS=2", "CODESIGN_EMULATED=1"} <= set(command)
    (path,) = (word.partition("=")[2] for word in command if word.startswith("PYTHONPATH="))
    assert sorted(p.name for p in Path(path).iterdir()) == ["codesign", "passes", "targets"]
    assert (Path(path) / "codesign/devices/emulator.py").is_file()


@pytest.mark.slow
def test_it_runs_aarch64(emulated_root):
    program = (
        "import json, os, platform, subprocess, sys, numpy as np, tvm, codesign;"
        "again = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True);"
        "x = np.arange(12.).reshape(3, 4);"
        "print(json.dumps([platform.machine(), tvm.__version__, (x @ x.T).tolist(),"
        " again.stdout.decode(), os.environ['CODESIGN_EMULATED']]))"
    )
    command = emulated_root.command(["-c", program])
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    products = [[14.0, 38.0, 62.0], [38.0, 126.0, 214.0], [62.0, 214.0, 366.0]]
    version = emulator.PINNED["apache-tvm"]
    assert json.loads(done.stdout) == ["aarch64", version, products, "42\n", "1"]


@pytest.mark.slow
def test_it_starts_itself_anew(emulated_root, tmp_path):
    """What ends with status 255 where this kernel is asked to run an AArch64 program."""
    script = tmp_path / "spawns.py"
    script.write_text(
        "import multiprocessing, os\n"
        "def child(): os._exit(7)\n"
        "if __name__ == '__main__':\n"
        "    for method in ('spawn', 'fork'):\n"
        "        made = multiprocessing.get_context(method).Process(target=child)\n"
        "        made.start(); made.join(60); print(made.exitcode)\n"
    )
    command = emulated_root.command([str(script)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["7", "7"], done.stderr
