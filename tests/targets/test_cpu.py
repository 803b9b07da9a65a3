"""Reading what the processor is from the text of /proc/cpuinfo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from targets import cpu
from targets.cpu import parse_cpuinfo, this_processor

TEXT = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9R14
flags\t\t: fpu pni sse4_1 sse4_2 abm bmi1 avx512_vnni avx512f fma

processor\t: 1
vendor_id\t: Another
flags\t\t: neon
"""


def test_the_first_processor_in_the_spelling_of_llvm():
    vendor, model, features = parse_cpuinfo(TEXT)
    assert (vendor, model) == ("AuthenticAMD", "AMD EPYC 9R14")
    assert features == set("fpu sse3 sse4.1 sse4.2 lzcnt bmi avx512vnni avx512f fma".split())


def test_arm_calls_them_features():
    text = "processor : 0\nFeatures : fp asimd asimdhp asimddp i8mm bf16\n"
    found = {"fp", "neon", "fullfp16", "dotprod", "i8mm", "bf16"}
    assert parse_cpuinfo(text) == ("", "", found)


def test_nothing_told():
    assert parse_cpuinfo("") == ("", "", frozenset())


def test_this_machine():
    cpu = this_processor()
    assert 1 <= cpu.cores <= (os.cpu_count() or 1)
    assert cpu.model


@pytest.mark.parametrize("granted", [True, False])
def test_tiles_count_only_where_the_system_lends_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, granted: bool
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("flags : avx512f amx_bf16 amx_tile amx_int8\n")
    monkeypatch.setattr(cpu, "_CPUINFO", file)
    monkeypatch.setattr(cpu, "tiles_granted", lambda: granted)
    tiles = {"amx-tile", "amx-int8", "amx-bf16"} if granted else set()
    assert cpu.this_processor.__wrapped__().features == {"avx512f"} | tiles


def test_a_processor_without_tiles_asks_for_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("flags : avx512f\n")
    monkeypatch.setattr(cpu, "_CPUINFO", file)
    monkeypatch.setattr(cpu, "tiles_granted", lambda: pytest.fail("asked"))
    assert cpu.this_processor.__wrapped__().features == {"avx512f"}
