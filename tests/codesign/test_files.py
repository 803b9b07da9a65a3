import errno
import os

import pytest

from codesign.errors import UserError
from codesign.files import read_text, write_text


def test_writes_into_a_new_folder(tmp_path):
    path = write_text(tmp_path / "a" / "b.txt", "text µ")
    assert read_text(path, "it") == "text µ"


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match=r"cannot write b\.txt") as caught:
        write_text(tmp_path / "a" / "b.txt", "text")
    assert caught.value.next


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_text(tmp_path / "b.txt", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError) as caught:
        write_text(path, "new")
    assert "No space left" in caught.value.got
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_binary_is_not_text(tmp_path):
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not text"):
        read_text(tmp_path / "b", "the file")
