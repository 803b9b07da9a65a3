"""The caches that Linux tells of."""

from __future__ import annotations

from pathlib import Path

import pytest

from targets.sysfs import l2_of_core, processors_in, size_in_bytes


def cpu(folder: Path, siblings: str | None, *caches: tuple[str, str, str, str]) -> Path:
    """The folder of a processor with caches (level, type, size, who shares it)."""
    if siblings is not None:
        (folder / "topology").mkdir()
        (folder / "topology" / "thread_siblings_list").write_text(siblings + "\n")
    for i, cache in enumerate(caches):
        own = folder / "cache" / f"index{i}"
        own.mkdir(parents=True)
        for name, text in zip(("level", "type", "size", "shared_cpu_list"), cache, strict=True):
            (own / name).write_text(text + "\n")
    return folder


L1 = ("1", "Data", "48K", "0")
L3 = ("3", "Unified", "32768K", "0-15")


@pytest.mark.parametrize(
    ("siblings", "shared", "kib"),
    [
        ("0", "0", 1024),
        ("0,64", "0,64", 1024),  # two threads of one core
        ("0", "0-3", 256),  # a cluster of four cores
        ("0-1", "0-3", 512),
        (None, "0", 1024),
        ("0", "no list", 1024),
        ("0-3", "0", 1024),
    ],
)
def test_the_share_of_one_core(tmp_path, siblings, shared, kib):
    folder = cpu(tmp_path, siblings, L1, ("2", "Unified", "1024K", shared), L3)
    assert l2_of_core(folder) == kib << 10


def test_nothing_told(tmp_path):
    assert l2_of_core(tmp_path / "absent") is None
    assert l2_of_core(cpu(tmp_path, "0", L1, ("2", "Unified", "much", "0"))) is None


def test_sizes_and_lists():
    assert [size_in_bytes(s) for s in ("48K", "1M", "512", "2 MiB", "-1", "")] == [
        49152, 1 << 20, 512, 2 << 20, None, None,
    ]  # fmt: skip
    assert [processors_in(s) for s in ("0-3,6", "5", "", None, "a-b")] == [5, 1, None, None, None]
