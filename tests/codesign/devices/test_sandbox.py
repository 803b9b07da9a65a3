"""What a session may name, and the cache."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.devices.sandbox import Cache, RefusedError, WorkFolder


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    folder = tmp_path / "session"
    folder.mkdir()
    return WorkFolder(folder, 1000)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "..", "x\0y"])
def test_names_that_lead_outside_are_refused(work: WorkFolder, name: str) -> None:
    with pytest.raises(RefusedError, match="refused"):
        work.resolve(name)


def test_links_that_lead_outside_are_refused(work: WorkFolder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (work.path / "file").symlink_to(tmp_path / "secret")
    (work.path / "folder").symlink_to(tmp_path)
    (work.path / "loop").symlink_to("loop")
    for name in ("file", "folder/secret", "folder/new"):
        with pytest.raises(RefusedError, match="link"):
            work.save(name, b"x")
    assert (tmp_path / "secret").read_text() == "s"
    (work.path / "inner").symlink_to("real")
    assert work.resolve("inner") == work.path.resolve() / "real"


def test_the_folder_itself_is_no_file(work: WorkFolder) -> None:
    work.save("a", b"x")
    with pytest.raises(RefusedError, match="no file in it"):
        work.save(".", b"x")
    with pytest.raises(RefusedError, match="could not be written"):
        work.save("a/b", b"x")
    assert sorted(p.name for p in work.path.parent.rglob("*")) == ["a", "session"]


@given(st.text(st.sampled_from("ab./\\\0~ "), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_name_is_refused_or_inside(work: WorkFolder, name: str) -> None:
    try:
        path = work.resolve(name)
    except RefusedError:
        return
    assert work.path.resolve() in (path, *path.parents)


def test_a_file_is_written_whole_or_not_at_all(
    work: WorkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.save("a/b.so", b"1" * 1000)
    assert work.resolve("a/b.so").read_bytes() == b"1" * 1000
    with pytest.raises(RefusedError, match="--max-upload-mb"):
        work.save("a/b.so", b"2" * 1001)

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RefusedError, match="disk is full"):
        work.save("a/b.so", b"3")
    assert [p.name for p in (work.path / "a").iterdir()] == ["b.so"]
    assert work.resolve("a/b.so").read_bytes() == b"1" * 1000


def test_the_cache_keeps_by_contents_and_checks_them(work: WorkFolder, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000)
    data = os.urandom(500)
    work.save("w.bin", data)
    assert not cache.has(_digest(data))
    with pytest.raises(RefusedError, match="has the SHA-256"):
        cache.keep(work.resolve("w.bin"), _digest(b"other"))
    cache.keep(work.resolve("w.bin"), _digest(data))
    assert cache.has(_digest(data))
    assert cache.take(_digest(data), work.resolve("again/w.bin"))
    assert work.resolve("again/w.bin").read_bytes() == data
    work.save("again/w.bin", b"changed")
    assert (cache.path / _digest(data)).read_bytes() == data
    assert not cache.take(_digest(b"other"), work.resolve("no"))
    assert not (work.path / "no").exists()


def test_a_file_damaged_in_the_cache_is_no_longer_there(work: WorkFolder, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10_000)
    work.save("w", b"good")
    cache.keep(work.resolve("w"), _digest(b"good"))
    (cache.path / _digest(b"good")).write_bytes(b"baad")
    assert not cache.take(_digest(b"good"), work.resolve("out"))
    assert not cache.has(_digest(b"good"))
    assert not (work.path / "out").exists()


def test_the_least_recently_used_goes_first(work: WorkFolder, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1000)
    files = {name: os.urandom(400) for name in "abc"}
    for age, name in enumerate("ab"):
        work.save(name, files[name])
        cache.keep(work.resolve(name), _digest(files[name]))
        os.utime(cache.path / _digest(files[name]), (1000 + age, 1000 + age))
    assert cache.has(_digest(files["a"]))  # a use: now b is the older
    work.save("c", files["c"])
    cache.keep(work.resolve("c"), _digest(files["c"]))
    assert {name: cache.has(_digest(data)) for name, data in files.items()} == {
        "a": True, "b": False, "c": True,
    }  # fmt: skip
    work.save("d", b"x" * 1000)
    small = Cache(tmp_path / "cache", 999)
    with pytest.raises(RefusedError, match="--cache-mb"):
        small.keep(work.resolve("d"), _digest(b"x" * 1000))
    assert small.has(_digest(files["a"]))


def test_what_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)
    (tmp_path / ".0123.part").write_bytes(b"half")
    (tmp_path / _digest(b"x")).write_bytes(b"x" * 101)
    cache.clean()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_what_is_no_digest_is_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(RefusedError, match="no SHA-256"):
        Cache(tmp_path, 100).has(digest)
