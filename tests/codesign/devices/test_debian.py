"""What apt prints is read right, and what is unpacked becomes a system. No network."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codesign.devices import debian
from codesign.devices.debian import Apt, Package, UnreachableError, parse_uris, upstream_version
from codesign.errors import UserError

POOL = "http://deb.example/pool/main"
PRINTED = f"""\
Reading package lists...
'{POOL}/libc6_2.36-9%2bdeb12u14_arm64.deb' libc6_2.36-9+deb12u14_arm64.deb 2324660 MD5Sum:96654eb259
'{POOL}/zlib1g_1.2.13.dfsg-1_arm64.deb' zlib1g_1%3a1.2.13.dfsg-1_arm64.deb 82744 SHA256:73299a
'{POOL}/libssl3_3.0.22-1%7edeb12u2_arm64.deb' libssl3_3.0.22-1~deb12u2_arm64.deb 1829128 {""}
'{POOL}/media-types_10.0.0_all.deb' media-types_10.0.0_all.deb 26136 MD5Sum:90fd
'{POOL}/evil.deb' ../evil_1_arm64.deb 3 MD5Sum:00
"""


def test_lines_of_apt_are_read():
    assert parse_uris(PRINTED) == [
        Package("libc6", "2.36-9+deb12u14", "libc6_2.36-9+deb12u14_arm64.deb", 2324660),
        Package("zlib1g", "1:1.2.13.dfsg-1", "zlib1g_1%3a1.2.13.dfsg-1_arm64.deb", 82744),
        Package("libssl3", "3.0.22-1~deb12u2", "libssl3_3.0.22-1~deb12u2_arm64.deb", 1829128),
        Package("media-types", "10.0.0", "media-types_10.0.0_all.deb", 26136),
    ]


def test_other_output_holds_no_packages():
    assert parse_uris("E: Unable to locate package python3\n") == []
    assert parse_uris("") == []


def test_versions_are_read_without_epoch_and_revision():
    packages = parse_uris(PRINTED)
    assert upstream_version(packages, "libc6") == (2, 36)
    assert upstream_version(packages, "zlib1g") == (1, 2, 13)
    with pytest.raises(UserError, match="python3"):
        upstream_version(packages, "python3")


def test_the_configuration_keeps_apt_out_of_the_system(tmp_path):
    text = debian.configuration(tmp_path, "arm64")
    folders = [line for line in text.splitlines() if line.startswith("Dir::")]
    assert {line.split()[0] for line in folders} >= {"Dir::State", "Dir::Cache", "Dir::Log"}
    assert all(str(tmp_path) in line for line in folders if "archives" not in line)
    assert "#clear APT::Update::Post-Invoke;" in text


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="no apt-config")
def test_apt_takes_the_configuration(tmp_path):
    apt = Apt(tmp_path / "apt", "arm64")
    command = ["apt-config", "-c", str(apt._file), "dump"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings = dict(line.rstrip(";").split(" ", 1) for line in said.splitlines() if " " in line)
    assert settings["APT::Architecture"] == '"arm64"'
    assert settings["Dir::State"] == f'"{tmp_path}/apt/state"'
    assert "APT::Update::Post-Invoke::" not in settings
    assert [v for k, v in settings.items() if k == "APT::Architectures::"] == ['"arm64"']


def on_path(folder, monkeypatch, **programs):
    """Programs by name that are shell scripts, before all others on PATH."""
    folder.mkdir()
    for name, text in programs.items():
        file = folder / name.replace("_", "-")
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_what_apt_refuses_is_told_with_its_words(tmp_path, monkeypatch):
    script = (
        'case "$*" in *update*) echo "W: Failed to fetch InRelease" >&2;;'
        ' *) echo "E: Unable to locate package python3" >&2; exit 100;; esac'
    )
    on_path(tmp_path / "bin", monkeypatch, apt_get=script)
    apt = Apt(tmp_path / "apt", "arm64")
    apt.update()
    with pytest.raises(UnreachableError) as caught:
        apt.resolve(["python3"])
    assert "Failed to fetch" in caught.value.got
    assert "Unable to locate" in caught.value.got
    assert "a source of arm64 packages" in caught.value.next


def test_what_is_downloaded_already_is_still_named(tmp_path, monkeypatch):
    """apt leaves out of its list what lies in its archives, so it is asked with empty ones."""
    script = 'for word; do case "$word" in Dir::Cache::archives=*) folder="${word#*=}";; esac; done'
    line = "'http://deb.example/c.deb' libc6_2.36_arm64.deb 7 MD5Sum:0"
    on_path(tmp_path / "bin", monkeypatch, apt_get=f'{script}; ls "$folder" >&2; echo "{line}"')
    apt = Apt(tmp_path / "apt", "arm64")
    (tmp_path / "apt/cache/archives/libc6_2.36_arm64.deb").touch()
    done = apt._run("install", "-o", f"Dir::Cache::archives={apt._nothing}")
    assert done.stderr.split() == ["partial"]
    assert apt.resolve(["libc6"]) == [Package("libc6", "2.36", "libc6_2.36_arm64.deb", 7)]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_a_download_ends_with_its_process(tmp_path):
    """A killed maker leaves no apt behind that would hold the locks."""
    program = (
        "import subprocess\nfrom codesign.devices.debian import dying_with_us\n"
        f"subprocess.run(dying_with_us(['sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 60']))"
    )
    owner = subprocess.Popen([sys.executable, "-c", program])
    until = time.monotonic() + 10
    while not (text := _text(tmp_path / "pid")) and time.monotonic() < until:
        time.sleep(0.02)
    owner.kill()
    owner.wait(10)
    stat = Path("/proc", text.strip(), "stat")
    while (state := _text(stat).rpartition(")")[2].split()[:1]) not in ([], ["Z"]):
        assert time.monotonic() < until, state
        time.sleep(0.02)


def _text(file):
    return file.read_text() if file.is_file() else ""


def test_a_download_that_brings_too_little_is_told(tmp_path, monkeypatch):
    on_path(tmp_path / "bin", monkeypatch, apt_get="exit 0")
    package = Package("libc6", "2.36", "libc6_2.36_arm64.deb", 1)
    apt = Apt(tmp_path / "apt", "arm64")
    with pytest.raises(UnreachableError, match="not downloaded"):
        apt.fetch([package])
    (tmp_path / "apt/cache/archives" / package.file).touch()
    assert [f.name for f in apt.fetch([package])] == [package.file]


def test_unpacked_packages_get_the_names_that_programs_expect(tmp_path, monkeypatch):
    """One of today's Debian brings /lib itself, one of the next none."""
    on_path(tmp_path / "bin", monkeypatch, dpkg_deb='mkdir -p "$3/usr/lib" "$3/sbin"')
    root = tmp_path / "root"
    debian.unpack([tmp_path / "a.deb"], root)
    assert os.readlink(root / "lib") == "usr/lib"
    assert (root / "sbin").is_dir()
    assert not (root / "sbin").is_symlink()


def test_a_package_that_is_broken_is_told(tmp_path, monkeypatch):
    on_path(tmp_path / "bin", monkeypatch, dpkg_deb="echo not an archive >&2; exit 2")
    with pytest.raises(UserError, match=r"a\.deb") as caught:
        debian.unpack([tmp_path / "a.deb"], tmp_path / "root")
    assert "not an archive" in caught.value.got
