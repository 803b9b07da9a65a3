"""Wheels are unpacked where they belong and nowhere else. No network."""

from __future__ import annotations

import stat
import zipfile
from pathlib import PurePosixPath

import pytest

from codesign.devices import wheels
from codesign.devices.wheels import destination, platforms, unpack
from codesign.errors import UserError


def wheel(path, files, link=None):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
    return path


def test_platforms_of_a_system_are_all_older_ones_too():
    tags = platforms("aarch64", (2, 19))
    assert tags == [
        "manylinux_2_19_aarch64",
        "manylinux_2_18_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
    ]


def test_files_go_below_the_folder(tmp_path):
    made = wheel(
        tmp_path / "a-1-py3-none-any.whl",
        {
            "a/__init__.py": "x = 1",
            "a/big.so": "0" * 10,
            "a-1.data/purelib/b/c.py": "y = 2",
            "a-1.data/scripts/run": "rm",
            "a-1.dist-info/METADATA": "Name: a",
        },
    )
    unpack(made, tmp_path / "site", lambda name: name != "a/big.so")
    found = {
        str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*") if p.is_file()
    }
    assert found == {"a/__init__.py", "b/c.py", "a-1.dist-info/METADATA"}
    assert (tmp_path / "site/b/c.py").read_text() == "y = 2"


@pytest.mark.parametrize(
    "name", ["../evil.py", "a/../../evil.py", "/evil.py", "a-1.data/purelib/../../../evil.py"]
)
def test_a_name_that_leads_out_leaves_nothing_behind(tmp_path, name):
    made = wheel(tmp_path / "a-1-py3-none-any.whl", {"a/__init__.py": "", name: "evil"})
    with pytest.raises(UserError, match="cannot be unpacked") as caught:
        unpack(made, tmp_path / "deep" / "site")
    assert "leads out" in caught.value.got
    assert not (tmp_path / "deep").exists()


def test_a_link_is_refused(tmp_path):
    made = wheel(tmp_path / "a-1-py3-none-any.whl", {"a/__init__.py": ""}, link="a/link")
    with pytest.raises(UserError) as caught:
        unpack(made, tmp_path / "site")
    assert "no plain file" in caught.value.got


def test_what_is_no_archive_is_told(tmp_path):
    (tmp_path / "a.whl").write_text("no zip")
    with pytest.raises(UserError, match=r"a\.whl"):
        unpack(tmp_path / "a.whl", tmp_path / "site")


def test_files_beside_the_libraries_go_nowhere():
    assert destination(zipfile.ZipInfo("a-1.data/headers/a.h")) is None
    assert destination(zipfile.ZipInfo("a-1.data/purelib")) is None
    assert destination(zipfile.ZipInfo("a-1.data/platlib/a.so")) == PurePosixPath("a.so")


def test_without_pip_the_way_to_one_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "pip", lambda: None)
    with pytest.raises(UserError, match="no pip") as caught:
        wheels.fetch(["numpy"], tmp_path, (3, 11), ["manylinux2014_aarch64"])
    assert "ensurepip" in caught.value.next


def test_a_failed_download_keeps_the_words_of_pip(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "pip", lambda: ["sh", "-c", "echo no index >&2; exit 1"])
    with pytest.raises(wheels.UnreachableError) as caught:
        wheels.fetch(["numpy"], tmp_path / "wheels", (3, 11), ["manylinux2014_aarch64"])
    assert caught.value.got == "no index"
    assert "numpy" in caught.value.allowed
